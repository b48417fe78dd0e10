"""A recording within an audio file, described by the bytes that a decoder has to see."""

import bisect
import dataclasses
import io
import itertools
import os
import pathlib

from mfl_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Part:
    """One recording of a file. Most files have one; joined files have several.

    Attributes:
      pieces: what to decode: ranges of bytes of the file, and bytes that stand for wrong ones; empty for the whole file.
      promised: length that the header promises, as a multiple of the length that is there.
      ignored: bytes after the samples that may be samples, but are not decoded, as a multiple of the bytes of the samples.
      notes: other evidence that audio is missing, e.g. `it ends within a frame`.
    """

    pieces: tuple[bytes | range, ...] = ()
    promised: float = 1.0
    ignored: float = 0.0
    notes: tuple[str, ...] = ()

    def open(self, path: pathlib.Path) -> "PartFile | pathlib.Path":
        """Returns what soundfile can open: the file itself, or a view of it."""
        return PartFile(path, self.pieces) if self.pieces else path


class PartFile(io.RawIOBase):
    """A read-only file that consists of pieces of another file and of other bytes; see `Part.pieces`."""

    def __init__(self, path: pathlib.Path, pieces: tuple[bytes | range, ...]):
        self._file = path.open("rb")
        self._pieces = pieces
        self._ends = list(itertools.accumulate(map(len, pieces)))
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._ends[-1]}[whence]
        return self._at

    def readinto(self, buffer) -> int:
        view, done = memoryview(buffer).cast("B"), 0
        # Decoders take a short read for the end of the file.
        while done < len(view) and (index := bisect.bisect_right(self._ends, self._at)) < len(self._pieces):
            piece = self._pieces[index]
            left = self._ends[index] - self._at
            length = min(left, len(view) - done)
            if isinstance(piece, bytes):
                start = len(piece) - left
                view[done : done + length] = piece[start : start + length]
            else:
                self._file.seek(piece.stop - left)
                length = self._file.readinto(view[done : done + length])
                if not length:
                    break
            done += length
            self._at += length
        return done

    def close(self) -> None:
        self._file.close()
        super().close()


def damage_error(path: pathlib.Path, seconds: float, what: str) -> InputError:
    """Returns the error for a recording of which something is missing in the middle."""
    return InputError(
        f"{path}: damaged at {seconds:.3f} s ({what}), so that all times after it would be wrong; copy or export it again"
    )
