"""Compares the sizes in the headers of WAV, RF64, W64 and AIFF files with the bytes that are there."""

import dataclasses
import os
from typing import BinaryIO, Literal

from mfl_jax.data.containers.part import Part

_LONGEST_HEAD = 40  # the start of a W64 file
_W64_MAGIC = bytes.fromhex("726966662e91cf11a5d628db04c10000")


@dataclasses.dataclass(frozen=True)
class _Dialect:
    """How a format writes chunks.

    Attributes:
      order: byte order of sizes.
      id_bytes: length of the name of a chunk.
      size_bytes: length of its size.
      size_covers_head: whether the size counts name and size too.
      align: chunks start at multiples of this.
      data: first four bytes of the name of the chunk of samples.
      data_head: bytes in that chunk before the samples.
    """

    order: Literal["little", "big"] = "little"
    id_bytes: int = 4
    size_bytes: int = 4
    size_covers_head: bool = False
    align: int = 2
    data: bytes = b"data"
    data_head: int = 0

    @property
    def head(self) -> int:
        return self.id_bytes + self.size_bytes


@dataclasses.dataclass(frozen=True)
class _Samples:
    """The chunk of samples.

    Attributes:
      start: position of the first sample.
      size: their number of bytes according to the header; None if the header says that it is unknown.
      size_field: position of that number, its length, and what to add to it.
    """

    start: int
    size: int | None
    size_field: tuple[int, int, int]


def find_parts(file: BinaryIO) -> list[Part] | None:
    """Finds the recordings of a file of chunks; None if the file is of another kind."""
    end, at, parts = file.seek(0, os.SEEK_END), 0, []
    while recognised := _recognise(_read(file, at)):
        dialect, head = recognised
        samples, stop = _read_chunks(file, at + head, end, dialect)
        is_last = _recognise(_read(file, stop)) is None
        part_end = end if is_last else stop
        part = Part() if samples is None else _compare_sizes(samples, at, part_end, part_end - stop, dialect)
        is_joined = at > 0 or not is_last
        parts.append(dataclasses.replace(part, pieces=(range(at, part_end),)) if is_joined and not part.pieces else part)
        if is_last:
            return parts
        at = part_end
    return None


def _read(file: BinaryIO, at: int) -> bytes:
    file.seek(at)
    return file.read(_LONGEST_HEAD)


def _recognise(head: bytes) -> tuple[_Dialect, int] | None:
    """Returns the dialect of a file from its first bytes, and where its first chunk starts."""
    if head[:4] in (b"RIFF", b"RF64") and head[8:12] == b"WAVE":
        return _Dialect(), 12
    if head[:4] == b"RIFX" and head[8:12] == b"WAVE":
        return _Dialect(order="big"), 12
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        return _Dialect(order="big", data=b"SSND", data_head=8), 12
    if head[:16] == _W64_MAGIC:
        return _Dialect(id_bytes=16, size_bytes=8, size_covers_head=True, align=8), 40
    return None


def _read_chunks(file: BinaryIO, start: int, end: int, dialect: _Dialect) -> tuple[_Samples | None, int]:
    """Reads the heads of chunks from byte `start` on.

    Returns:
      The chunk of samples, and where the chunks end: at the end of the file, at another recording, or at bytes that are no chunk.
    """
    at, samples, long_size = start, None, None
    while at + dialect.head <= end:
        head = _read(file, at)
        name, size = head[: dialect.id_bytes], int.from_bytes(head[dialect.id_bytes : dialect.head], dialect.order)
        content = at + dialect.head
        size -= dialect.head if dialect.size_covers_head else 0
        is_samples = samples is None and name[:4] == dialect.data
        if size < 0 or not all(32 <= byte < 127 for byte in name[:4]) or _recognise(head):
            break
        if content + size > end and not is_samples:
            break
        if name == b"ds64":
            long_size = int.from_bytes(head[16:24], "little"), (at + 16, 8, 0)
        if is_samples:
            field = (at + dialect.id_bytes, dialect.size_bytes, content - at if dialect.size_covers_head else 0)
            if long_size:  # RF64
                size, field = long_size
            is_unknown = _means_unknown(size, field[1])
            samples = _Samples(content + dialect.data_head, None if is_unknown else size - dialect.data_head, field)
            size = end - content if is_unknown else size
        at = min(content + size, end)
        if not _recognise(_read(file, at)):  # some programs do not align the end of a file
            at = min(at + -(at - start) % dialect.align, end)
    return samples, at


def _means_unknown(size: int, size_bytes: int) -> bool:
    """Returns whether programs write this size when they do not know the length, as when writing to a pipe."""
    if size_bytes == 8:
        return size >= 2**63 - 1
    return size > 4096 and -size % 2**31 <= 4096  # slightly less than 2^31 or 2^32


def _compare_sizes(samples: _Samples, start: int, end: int, rest: int, dialect: _Dialect) -> Part:
    """Describes bytes `start` to `end` of a file, whose last `rest` bytes are no chunk."""
    there, size = end - samples.start, samples.size
    if size is None or there <= 0:
        return Part()
    if size <= 0:
        if 2 * rest < there:  # empty, with other chunks after it
            return Part()
        position, length, extra = samples.size_field
        extra += dialect.data_head
        written = min(there + extra, 2 ** (8 * length) - 1).to_bytes(length, dialect.order)
        note = "its header was never completed; it is read up to the end of the file"
        return Part((range(start, position), written, range(position + length, end)), notes=(note,))
    # libsndfile takes all that follows in a W64 file for samples.
    pieces = (range(start, samples.start + size),) if dialect.size_covers_head and size < there else ()
    return Part(pieces, promised=max(1.0, size / there), ignored=rest / size)
