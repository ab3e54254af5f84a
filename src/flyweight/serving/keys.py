"""API keys: kept as hashes, compared in constant time, each with a name and a salt of its own.

The salt keeps the cached prefixes of one key from another, who could otherwise find out by the time of an answer what
was asked before. It is made anew at every start.
"""

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable, Sequence
from pathlib import Path

from flyweight.errors import UsageError
from flyweight.serving.asks import Owner
from flyweight.serving.options import ServeOptions

SHORTEST_KEY = 8
NAMED = re.compile(r"([A-Za-z0-9._-]{1,64})=(.{8,})")
HASHED = re.compile(r"sha256:([0-9a-f]{64})")


class KeyRing:
    """Some keys.

    Args:
        given: ``KEY``, ``NAME=KEY`` or ``NAME=sha256:DIGEST`` each.

    Raises:
        UsageError: when a key is too short, or two have one name.
    """

    def __init__(self, given: Iterable[str]) -> None:
        secret = secrets.token_bytes(32)
        self._owners: dict[bytes, Owner] = {}
        for one in given:
            name, digest = _parse(one)
            salt = hmac.new(secret, digest, hashlib.sha256).hexdigest()
            if any(owner.name == name for owner in self._owners.values()):
                raise UsageError(f"two API keys have the name {name!r}; give each its own, as NAME=KEY")
            self._owners[digest] = Owner(name=name, salt=salt)

    @property
    def names(self) -> Sequence[str]:
        return [owner.name for owner in self._owners.values()]

    def find(self, key: str) -> Owner | None:
        """Whose key this is. Every key is compared, so that the time does not tell which was nearly right."""
        digest = hashlib.sha256(key.encode("utf-8", "replace")).digest()
        found = None
        for known, owner in self._owners.items():
            if hmac.compare_digest(known, digest):
                found = owner
        return found


def read_keys(options: ServeOptions) -> KeyRing | None:
    """The keys of a server; None where it has none.

    Raises:
        UsageError: when one cannot be read.
    """
    given = list(options.api_key)
    if options.api_key_file is not None:
        given += _lines(options.api_key_file)
        if not given:
            raise UsageError(f"{options.api_key_file} holds no key; write one on each line, or leave the option out")
    return KeyRing([*given, *options.admin_key]) if given else None


def read_admin_keys(options: ServeOptions) -> KeyRing | None:
    """The keys of those who may change what is served; None where there are none.

    Raises:
        UsageError: when one cannot be read.
    """
    return KeyRing(options.admin_key) if options.admin_key else None


def _lines(path: Path) -> list[str]:
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 (byte {error.start}); write one key on each line") from error
    return [line for line in lines if line and not line.startswith("#")]


def _parse(given: str) -> tuple[str, bytes]:
    """The name and the digest of a key; without a name the digest's beginning serves as one."""
    named = NAMED.fullmatch(given)
    name, key = (named[1], named[2]) if named else ("", given)
    hashed = HASHED.fullmatch(key)
    if hashed is None and len(key) < SHORTEST_KEY:
        raise UsageError(f"an API key has {len(key)} characters; choose one of {SHORTEST_KEY} or more at random")
    digest = bytes.fromhex(hashed[1]) if hashed else hashlib.sha256(key.encode("utf-8")).digest()
    return name or f"key-{digest.hex()[:8]}", digest
