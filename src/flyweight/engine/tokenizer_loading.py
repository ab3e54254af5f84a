"""A tokenizer read beside other work: its library lets go of the interpreter's lock, and a large one takes a while.

It knows neither what else is being loaded nor what the tokenizer is for.
"""

import threading
from pathlib import Path

from flyweight import kernels
from flyweight.tokenizer import Tokenizer


class TokenizerLoading:
    """The tokenizer of ``folder``, if it has one, being read by a thread of its own from now on."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._tokenizer: Tokenizer | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._read, name="flyweight-tokenizer", daemon=True)
        self._thread.start()

    def result(self) -> Tokenizer | None:
        """Wait for it; None where the folder has no ``tokenizer.json``.

        Raises:
            CheckpointError: when a file cannot be read.
        """
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._tokenizer

    def _read(self) -> None:
        try:
            if (self._folder / "tokenizer.json").is_file():
                self._tokenizer = Tokenizer.open(self._folder)
        except BaseException as error:  # noqa: BLE001  it is raised where the result is asked for
            self._error = error
        # The library parses the file into a tree first, half as large again as the tokenizer, and frees it in crumbs.
        kernels.release_free_memory()
