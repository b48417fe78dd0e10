"""Finds the recordings joined in a FLAC file, and how many samples each one holds (RFC 9639)."""

import dataclasses
import os
from collections.abc import Iterator
from typing import BinaryIO

from mfl_jax.data.containers.part import Part
from mfl_jax.data.containers.search import find_bytes

_INFO = 8  # the stream information follows the marker and the head of its block
_TOTAL = _INFO + 13  # five bytes: 4 bits of the sample size, then the number of samples, or 0 for an unknown number
_TAIL_BYTES = 1 << 20  # more than the longest frame that encoders write
_BLOCK_SIZES = {1: 192} | {code: 576 << (code - 2) for code in range(2, 6)} | {code: 256 << (code - 8) for code in range(8, 16)}


def find_parts(file: BinaryIO, start: int) -> list[Part]:
    """Finds the recordings of a FLAC file from byte `start` on, and corrects the number of samples in their headers."""
    starts = list(_find_starts(file, start))
    ends = [*starts[1:], file.seek(0, os.SEEK_END)]
    parts = [_describe(file, start, end, is_whole=len(starts) == 1) for start, end in zip(starts, ends, strict=True)]
    return parts


def _find_starts(file: BinaryIO, start: int) -> Iterator[int]:
    """Yields where recordings start: the first one, and others by the same encoder. A long marker is found faster."""
    file.seek(start)
    marker = file.read(_INFO + 4)  # up to the sizes of blocks
    at: int | None = start
    while at is not None:
        yield at
        at = find_bytes(file, marker, at + len(marker))


@dataclasses.dataclass(frozen=True)
class _Frame:
    """A frame: its position in the bytes that were searched, its first sample and its number of samples."""

    at: int
    first: int
    samples: int


def _describe(file: BinaryIO, start: int, end: int, is_whole: bool) -> Part:
    """Describes the recording in bytes `start` to `end`. A cut last frame is left out, since it can't be decoded."""
    as_it_is = Part(() if is_whole else (range(start, end),))
    file.seek(start)
    head = file.read(_TOTAL + 5)
    tail_start = max(start + len(head), end - _TAIL_BYTES)
    file.seek(tail_start)
    tail = file.read(end - tail_start)
    total_field = int.from_bytes(head[_TOTAL:], "big")
    promised = total_field % 2**36
    frame = _find_last_frame(tail, int.from_bytes(head[_INFO + 2 : _INFO + 4], "big"), promised)
    if frame is None or frame.first + frame.samples == promised:
        return as_it_is
    is_cut = _crc(tail[frame.at :], 16, 0x8005) != 0
    samples = frame.first + (0 if is_cut else frame.samples)
    if not samples:
        return as_it_is
    corrected = (total_field - promised + samples).to_bytes(5, "big")
    stop = tail_start + frame.at if is_cut else end
    pieces = (range(start, start + _TOTAL), corrected, range(start + _TOTAL + 5, stop))
    notes = ("it ends within a frame, so its end may be missing",) if is_cut and not promised else ()
    return Part(pieces, promised=max(1.0, promised / samples), notes=notes)


def _find_last_frame(tail: bytes, block_size: int, promised: int) -> _Frame | None:
    """Finds the last frame: one that ends as promised, or follows another one. Samples may look like a frame."""
    by_start: dict[int, _Frame] = {}
    at = len(tail)
    while (at := tail.rfind(b"\xff", 0, at)) >= 0:
        if (frame := _read_frame(tail, at, block_size)) is None:
            continue
        if frame.first + frame.samples == promised:
            return frame
        by_start.setdefault(frame.first, frame)
        if last := by_start.get(frame.first + frame.samples) or by_start.get(0):
            return last
    return None


def _read_frame(data: bytes, at: int, block_size: int) -> _Frame | None:
    """Reads the header of a frame; returns None if the bytes are not a header."""
    head = data[at : at + 16]
    if len(head) < 16 or head[1] not in (0xF8, 0xF9) or head[3] & 1:
        return None
    ones = 8 - (head[4] ^ 0xFF).bit_length()  # the number is coded as in UTF-8
    length = max(1, ones)
    number = head[4] & (0x7F >> ones)
    if ones in (1, 8) or any(byte >> 6 != 2 for byte in head[5 : 4 + length]):
        return None
    for byte in head[5 : 4 + length]:
        number = number << 6 | byte & 0x3F
    end, size_code, rate_code = 4 + length, head[2] >> 4, head[2] & 15
    extra = {6: 1, 7: 2}.get(size_code, 0)
    samples = int.from_bytes(head[end : end + extra], "big") + 1 if extra else _BLOCK_SIZES.get(size_code)
    end += extra + {12: 1, 13: 2, 14: 2}.get(rate_code, 0)
    if samples is None or rate_code == 15 or end >= 16 or _crc(head[: end + 1], 8, 0x07):
        return None
    return _Frame(at, number if head[1] & 1 else number * block_size, samples)


def _crc(data: bytes, bits: int, polynomial: int) -> int:
    """Computes a CRC, most significant bit first; 0 for data that ends with its own CRC."""
    crc, top, mask = 0, 1 << (bits - 1), (1 << bits) - 1
    for byte in data:
        crc ^= byte << (bits - 8)
        for _ in range(8):
            crc = (crc << 1 ^ polynomial) & mask if crc & top else crc << 1
    return crc
