"""Finds the recordings joined in an OGG file, and damaged or missing pages (RFC 3533)."""

import dataclasses
import pathlib
import struct
import zlib
from typing import BinaryIO

from mfl_jax.data.containers.part import Part, damage_error
from mfl_jax.data.containers.search import find_bytes

_HEADER = struct.Struct("<4sBBqIIIB")
_FIRST, _LAST = 2, 4  # flags of a page
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


@dataclasses.dataclass
class _Page:
    start: int
    end: int
    flags: int
    granule: int
    serial: int
    number: int
    body: bytes


@dataclasses.dataclass
class _Link:
    """One of the recordings that are joined in a file."""

    start: int
    granules_per_s: int = 0
    granule: int = 0
    has_samples: bool = False
    has_end: bool = False
    numbers: dict[int, int] = dataclasses.field(default_factory=dict)

    def add(self, page: _Page, path: pathlib.Path, start_s: float) -> None:
        number = self.numbers.get(page.serial)
        if number is not None and page.number != (number + 1) % 2**32:
            raise damage_error(path, start_s + self.duration_s, "OGG pages are damaged or missing")
        self.numbers[page.serial] = page.number
        self.has_samples |= not page.flags & _FIRST
        self.has_end |= bool(page.flags & _LAST)
        self.granules_per_s = self.granules_per_s or _granules_per_s(page.body)
        self.granule = max(self.granule, page.granule)

    @property
    def duration_s(self) -> float:
        return self.granule / self.granules_per_s if self.granules_per_s else 0.0


def find_parts(path: pathlib.Path, file: BinaryIO) -> list[Part]:
    """Finds the recordings of an OGG file by reading all its pages.

    Raises:
      InputError: pages are missing in the middle of a recording. A decoder would go on with what follows, too early.
    """
    links: list[_Link] = []
    ends: list[int] = []
    at, start_s = 0, 0.0
    while page := _next_page(file, at):
        if page.flags & _FIRST and (not links or links[-1].has_samples):
            if links:
                ends.append(page.start)
                start_s += links[-1].duration_s
            links.append(_Link(page.start))
        if links:
            links[-1].add(page, path, start_s)
        at = page.end
    ends.append(at)
    parts = []
    for link, end in zip(links, ends, strict=False):
        notes = () if link.has_end else ("its last OGG page is missing, so its end may be missing",)
        parts.append(Part((range(link.start, end),) if len(links) > 1 else (), notes=notes))
    return parts or [Part()]


def _next_page(file: BinaryIO, at: int) -> _Page | None:
    """Reads the next undamaged page that starts at byte `at` or later; None at the end."""
    while True:
        file.seek(at)
        head = file.read(_HEADER.size)
        if len(head) < _HEADER.size:
            return None
        if head.startswith(b"OggS"):
            _, _, flags, granule, serial, number, checksum, segments = _HEADER.unpack(head)
            lengths = file.read(segments)
            body = file.read(sum(lengths))
            if _checksum(head[:22] + bytes(4) + head[26:] + lengths + body) == checksum:
                return _Page(at, at + len(head) + len(lengths) + len(body), flags, granule, serial, number, body)
        if (found := find_bytes(file, b"OggS", at + 1)) is None:
            return None
        at = found


def _checksum(page: bytes) -> int:
    """Computes the checksum of OGG: the CRC-32 of zlib with all bits in the opposite order, and without its inversions."""
    mirrored = zlib.crc32(page.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{mirrored:032b}"[::-1], 2)


def _granules_per_s(body: bytes) -> int:
    """Reads the unit of granule positions from the first packet of a stream; 0 if unknown."""
    if body.startswith(b"OpusHead"):
        return 48_000
    if body.startswith(b"\x01vorbis") and len(body) >= 16:
        return int.from_bytes(body[12:16], "little")
    if body.startswith(b"\x7fFLAC") and len(body) >= 30:
        return int.from_bytes(body[27:30], "big") >> 4
    return 0
