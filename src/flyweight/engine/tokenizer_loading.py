"""When a model's tokenizer is read: beside other work, when it is first wanted, or before.

Its library lets go of the interpreter's lock, and a large file takes it a while. This knows neither what else is being
loaded nor what the tokenizer is for.
"""

import threading
from pathlib import Path
from typing import Literal

from flyweight import kernels
from flyweight.errors import UsageError
from flyweight.tokenizer import Tokenizer

TokenizerChoice = Tokenizer | Literal["eager", "lazy"]


class TokenizerLoading:
    """The tokenizer of ``folder``, if it has one.

    Args:
        choice: ``eager``: a thread of its own reads it from now on; ``lazy``: it is read when ``result`` is first asked
            for it; or the tokenizer itself, where it has been read before.

    Raises:
        UsageError: for another choice.
    """

    def __init__(self, folder: Path, choice: TokenizerChoice = "eager") -> None:
        if not isinstance(choice, Tokenizer) and choice not in ("eager", "lazy"):
            raise UsageError(f"tokenizer={choice!r} is unknown; choose eager, lazy or a Tokenizer")
        self._folder = folder
        self._tokenizer = choice if isinstance(choice, Tokenizer) else None
        self._error: BaseException | None = None
        self._lock = threading.Lock()
        self._is_read = self._tokenizer is not None
        if choice == "eager":
            threading.Thread(target=self._read, name="flyweight-tokenizer", daemon=True).start()

    def result(self) -> Tokenizer | None:
        """Wait for it; None where the folder has no ``tokenizer.json``.

        Raises:
            CheckpointError: when a file cannot be read.
        """
        self._read()
        if self._error is not None:
            raise self._error
        return self._tokenizer

    def _read(self) -> None:
        with self._lock:
            if self._is_read:
                return
            try:
                if (self._folder / "tokenizer.json").is_file():
                    self._tokenizer = Tokenizer.open(self._folder)
            except KeyboardInterrupt:
                raise  # it says nothing about the files
            except BaseException as error:  # noqa: BLE001  it is raised where the result is asked for
                self._error = error
            self._is_read = True
        # The library parses the file into a tree first, half as large again as the tokenizer, and frees it in crumbs.
        kernels.release_free_memory()
