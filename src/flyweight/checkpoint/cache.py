"""Where this package keeps what it can compute again, and digests of files that are computed once.

It knows nothing of what callers store there. A cache that cannot be written is done without: it saves time only.
"""

import hashlib
import os
import re
from pathlib import Path

HASH_BYTES = 4 << 20


def cache_folder() -> Path:
    """``FLYWEIGHT_CACHE``, else ``XDG_CACHE_HOME/flyweight``, else ``~/.cache/flyweight``. It may not exist yet."""
    chosen = os.environ.get("FLYWEIGHT_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "flyweight"


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal. Remembered under the file's real path, size, mtime and inode.

    Raises:
        OSError: when the file cannot be read.
    """
    with open(path, "rb") as file:
        status = os.fstat(file.fileno())
        identity = f"{path.resolve()}\n{status.st_size}\n{status.st_mtime_ns}\n{status.st_ino}"
        remembered = cache_folder() / "digests" / hashlib.sha256(identity.encode(errors="surrogateescape")).hexdigest()
        known = _read_digest(remembered)
        if known is not None:
            return known
        digest = hashlib.sha256()
        while piece := file.read(HASH_BYTES):
            digest.update(piece)
    _remember(remembered, digest.hexdigest())
    return digest.hexdigest()


def _read_digest(path: Path) -> str | None:
    try:
        text = path.read_text(encoding="ascii")
    except (OSError, ValueError):
        return None
    return text if re.fullmatch("[0-9a-f]{64}", text) else None


def _remember(path: Path, digest: str) -> None:
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(digest, encoding="ascii")
        os.replace(partial, path)
    except OSError:
        pass  # a read-only home: the next call computes the digest again
