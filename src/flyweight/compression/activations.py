"""What flows between layers during calibration, for every calibration token: kept in memory or in a file of its own.

It does not know what the rows mean. Both ways give back the same bits.
"""

import os
from pathlib import Path

import numpy as np

from flyweight.errors import IntegrityError
from flyweight.formats.base import Array


class Activations:
    """float32 rows (tokens, width), read and written by ranges of rows.

    With ``file`` they lie there and only the rows asked for are in memory; files are read and written, never mapped,
    because mapped pages count as resident. :meth:`release` frees memory or deletes the file.
    """

    def __init__(self, tokens: int, width: int, *, file: Path | None = None) -> None:
        self.tokens, self.width = tokens, width
        self._file = file
        self._rows: Array | None = None if file is not None else np.empty((tokens, width), np.float32)
        self._descriptor = -1 if file is None else os.open(file, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)

    @property
    def nbytes(self) -> int:
        return self.tokens * self.width * 4

    def read(self, start: int, stop: int) -> Array:
        """Rows ``start`` to ``stop``; not to be changed."""
        if self._rows is not None:
            return self._rows[start:stop]
        values = np.empty((stop - start, self.width), np.float32)
        target, position = values.data.cast("B"), start * self.width * 4
        while len(target):
            count = os.preadv(self._descriptor, [target], position)
            if count <= 0:
                raise IntegrityError("activations were read before they were written")
            target, position = target[count:], position + count
        return values

    def write(self, start: int, values: Array) -> None:
        """Set the rows from ``start`` on."""
        if self._rows is not None:
            self._rows[start : start + len(values)] = values
            return
        data, position = np.ascontiguousarray(values, np.float32).data.cast("B"), start * self.width * 4
        while len(data):
            count = os.pwrite(self._descriptor, data, position)
            data, position = data[count:], position + count

    def release(self) -> None:
        """Free the memory or delete the file; the rows are gone."""
        self._rows = None
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        if self._file is not None:
            self._file.unlink(missing_ok=True)
