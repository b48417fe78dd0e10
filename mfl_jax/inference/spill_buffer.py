"""A growing array that moves to a temporary file once it is large."""

import tempfile
from typing import BinaryIO

import numpy as np

MAX_MEMORY_BYTES = 1 << 20
"""A buffer with more bytes than this moves its rows to a file."""


class SpillBuffer:
    """Collects float32 rows; those of long recordings, which may not fit into memory, go to an unnamed temporary file."""

    def __init__(self, columns: int):
        self._columns = columns
        self._in_memory: list[np.ndarray] = []
        self._rows = 0
        self._file: BinaryIO | None = None

    def write(self, rows: np.ndarray) -> None:
        """Appends rows [shape=(n, columns)]."""
        self._in_memory.append(np.ascontiguousarray(rows, np.float32).reshape(len(rows), self._columns))
        self._rows += len(rows)
        if sum(rows.nbytes for rows in self._in_memory) > MAX_MEMORY_BYTES:
            if self._file is None:
                self._file = tempfile.TemporaryFile(prefix="mfl_jax_")  # noqa: SIM115 (closed by `read` or `close`)
            self._spill(self._file)

    def _spill(self, file: BinaryIO) -> None:
        for rows in self._in_memory:
            file.write(rows.data)
        self._in_memory.clear()

    def read(self) -> np.ndarray:
        """Returns all rows, float32 [shape=(n, columns)], memory-mapped if they are in a file. Call it once, at the end."""
        if self._file is None:
            return np.concatenate([np.zeros((0, self._columns), np.float32), *self._in_memory])
        with self._file as file:
            self._spill(file)
            file.flush()
            return np.memmap(file, np.float32, "r", shape=(self._rows, self._columns))

    def close(self) -> None:
        """Releases the file. Needed only if `read` is never called."""
        if self._file is not None:
            self._file.close()
