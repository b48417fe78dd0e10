"""Finds the recordings joined in an MP3 file, their true lengths, and damage between frames."""

import dataclasses
import functools
import os
import pathlib
import re
import sys
from typing import BinaryIO

from mfl_jax.data.containers.part import Part, damage_error
from mfl_jax.data.containers.search import find_bytes, read_id3v2_length

_VERSIONS = {3: 1, 2: 2, 0: 4}  # the code of a version and the divisor of its rates: MPEG 1, 2, 2.5
_INFO_NAMES = (b"Xing", b"Info")
_RATES_HZ = (44_100, 48_000, 32_000)
_KBITS_PER_S = {
    (1, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (1, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (1, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (2, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (2, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (2, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
"""Bit rates of codes 1 to 14, by version (1, or 2 for MPEG 2 and 2.5) and layer."""


@dataclasses.dataclass(frozen=True)
class _Header:
    """The header of a frame.

    Attributes:
      format: what is the same in all frames of a stream: version, layer, rate, and whether there is one channel, in one number.
      layer: 1, 2 or 3.
      length: bytes of the frame.
      samples: samples per channel of the frame.
      rate_hz: their rate.
      info: where a Xing header would start in the frame.
    """

    format: int
    layer: int
    length: int
    samples: int
    rate_hz: int
    info: int


@functools.lru_cache(maxsize=4096)
def _parse_header(head: bytes) -> _Header | None:
    """Parses a frame header of four bytes; returns None if they are not a header, or if the bit rate is free."""
    if len(head) < 4 or head[0] != 0xFF or head[1] < 0xE0:
        return None
    version, layer = head[1] >> 3 & 3, 4 - (head[1] >> 1 & 3)
    bit_rate, rate, padding = head[2] >> 4, head[2] >> 2 & 3, head[2] >> 1 & 1
    if version == 1 or layer == 4 or bit_rate in (0, 15) or rate == 3:
        return None
    rate_hz, is_first, is_mono = _RATES_HZ[rate] // _VERSIONS[version], version == 3, head[3] >> 6 == 3
    bits_per_s = 1000 * _KBITS_PER_S[1 if is_first else 2, layer][bit_rate - 1]
    samples = 384 if layer == 1 else 1152 if is_first or layer == 2 else 576
    length = 4 * (12 * bits_per_s // rate_hz + padding) if layer == 1 else samples // 8 * bits_per_s // rate_hz + padding
    info = 4 + (17 if is_mono else 32) if is_first else 4 + (9 if is_mono else 17)
    format = (version * 4 + layer) * 8 + rate * 2 + is_mono
    return _Header(format, layer, length, samples, rate_hz, info)


@dataclasses.dataclass
class _Stream:
    """The frames of one recording.

    Attributes:
      header: header of the first frame.
      promised: number of frames according to a Xing or VBRI header; None without one.
      is_xing: whether it has a Xing header, which the decoder needs to know the length.
      runs: first and last byte of frames without anything between them.
      frames: number of frames, without the one that holds the Xing or VBRI header.
      damage: number of frames before bytes that are no frame, and number of these bytes.
      notes: see `Part`.
    """

    header: _Header
    promised: int | None = None
    is_xing: bool = False
    runs: list[list[int]] = dataclasses.field(default_factory=list)
    frames: int = 0
    damage: tuple[int, int] | None = None
    notes: tuple[str, ...] = ()

    @property
    def frame_s(self) -> float:
        return self.header.samples / self.header.rate_hz

    @property
    def is_full(self) -> bool:
        return self.promised is not None and self.frames >= self.promised

    def add(self, start: int, end: int) -> None:
        """Adds the bytes of a frame."""
        if not self.runs or self.runs[-1][1] != start:
            self.runs.append([start, start])
        self.runs[-1][1] = end

    def drop_from(self, start: int) -> None:
        """Drops the last frame, which starts at byte `start` and is incomplete."""
        self.frames = max(0, self.frames - 1)
        if self.runs and self.runs[-1][1] > start:
            self.runs[-1][1] = start


def find_parts(path: pathlib.Path, file: BinaryIO) -> list[Part]:
    """Finds the recordings of an MP3 file by reading the headers of all its frames.

    The decoder takes the number of frames from a Xing header. Without one it guesses from the size of the file, which loses audio
    where the bit rate varies, so such a header is put in front.

    Raises:
      InputError: bytes between frames are no frames, and audio is missing. A decoder would go on with what follows, too early.
    """
    reader = _StreamReader(file)
    reader.read()
    streams, start_s = reader.streams, 0.0
    for stream in streams:
        if stream.damage:
            frames, length = stream.damage
            if not stream.is_full:
                raise damage_error(path, start_s + frames * stream.frame_s, f"{length} bytes are no MP3 frames")
            stream.notes = (f"{length} bytes at {frames * stream.frame_s:.3f} s are no MP3 frames",)
        start_s += stream.frames * stream.frame_s
    # A single frame more than promised is a difference in counting.
    streams = [stream for stream in streams if stream.frames > 1 or stream.promised is not None] or streams
    streams = [stream for stream in streams if stream.runs]
    if not streams or (len(streams) == 1 and reader.is_clean and streams[0].is_xing and len(streams[0].runs) == 1):
        return [Part()]
    parts = []
    for stream in streams:
        added = () if stream.is_xing or stream.header.layer != 3 else (_make_xing_frame(file, stream),)
        parts.append(Part((*added, *(range(*run) for run in stream.runs)), notes=stream.notes))
    return parts


class _StreamReader:
    """Reads the frames of a file into `streams`; `is_clean` tells whether nothing but tags follows the last one."""

    def __init__(self, file: BinaryIO):
        self.streams: list[_Stream] = []
        self.is_clean = True
        self._file = file
        self._size = file.seek(0, os.SEEK_END)
        self._at = 0
        self._previous: int | None = None  # start of the last frame
        self._skipped = 0  # bytes before the next frame that are neither frames nor tags

    def read(self) -> None:
        while (start := self._find_next()) is not None:
            self._read_frame(start)
            self._read_like_frames()

    def _find_next(self) -> int | None:
        """Returns where the next frame starts; None at the end."""
        self._skipped = 0
        header = self._header_at(self._at)
        if header and self.streams and header.format == self.streams[-1].header.format:
            return self._at
        at = _skip_tags(self._file, self._at)
        if at >= self._size or self._starts_frames(at):
            return at if at < self._size else None
        # The last frame may be cut, so that the next one starts within it.
        start = self._find_frames(at if self._previous is None else self._previous + 1)
        if start is None:
            self.is_clean = False
            if self.streams and not self.streams[-1].is_full and not _is_tag(self._file, at):
                self.streams[-1].notes = (f"its last {self._size - at} bytes are no MP3 frames, so its end may be missing",)
        elif self._previous is not None and start < at:
            self.streams[-1].drop_from(self._previous)
            self._skipped = start - self._previous
        else:
            self._skipped = start - at
        return start

    def _read_frame(self, start: int) -> None:
        header = self._header_at(start)
        assert header is not None
        self._file.seek(start)
        frame = self._file.read(header.length)
        self._previous, self._at = start, start + header.length
        info = _read_info(frame, header)
        if not self.streams or info or header.format != self.streams[-1].header.format or self.streams[-1].is_full:
            self.streams.append(_Stream(header, *(info or ())))
        elif self._skipped and not self.streams[-1].damage:
            self.streams[-1].damage = self.streams[-1].frames, self._skipped
        stream = self.streams[-1]
        if len(frame) < header.length:
            self.is_clean = False
            if stream.promised is None:
                stream.notes = ("it ends within a frame, so its end may be missing",)
        elif not info or stream.is_xing:
            stream.add(start, self._at)
            stream.frames += not info

    def _read_like_frames(self) -> None:
        """Reads on while complete frames of the same format follow each other: most of a file, and much faster."""
        stream = self.streams[-1]
        format, info = stream.header.format, stream.header.info
        count, most = 0, sys.maxsize if stream.promised is None else stream.promised - stream.frames
        first = self._at
        while True:
            self._file.seek(self._at)
            block, at = self._file.read(1 << 16), 0
            while count < most:
                header = _parse_header(block[at : at + 4])
                if header is None or header.format != format or at + header.length > len(block):
                    break
                if block[at + info : at + info + 4] in _INFO_NAMES or block[at + 36 : at + 40] == b"VBRI":
                    break
                count += 1
                self._previous = self._at + at
                at += header.length
            self._at += at
            if not at:
                break
        if count:
            stream.add(first, self._at)
            stream.frames += count

    def _header_at(self, at: int) -> _Header | None:
        self._file.seek(at)
        return _parse_header(self._file.read(4))

    def _starts_frames(self, at: int) -> bool:
        """Returns whether three frames of one format, or all frames up to the end or a tag, start at byte `at`."""
        format = None
        for _ in range(3):
            header = self._header_at(at)
            if header is None or format not in (None, header.format):
                return False
            format = header.format
            at += header.length
            if at >= self._size or _skip_tags(self._file, at) > at:
                return True
        return True

    def _find_frames(self, start: int) -> int | None:
        """Returns the first byte at `start` or later at which frames start, or None if no more follow."""
        while start < self._size:
            self._file.seek(start)
            block = self._file.read(1 << 16)
            for match in re.finditer(rb"\xff[\xe2-\xff]", block):
                if self._starts_frames(start + match.start()):
                    return start + match.start()
            start += max(1, len(block) - 1)
        return None


def _read_info(frame: bytes, header: _Header) -> tuple[int | None, bool] | None:
    """Reads the number of frames from a frame with a Xing or VBRI header, and whether it is Xing; None for other frames."""
    name = frame[header.info : header.info + 4]
    if name in _INFO_NAMES and not any(frame[4 : header.info]):
        flags, frames = (int.from_bytes(frame[header.info + at : header.info + at + 4], "big") for at in (4, 8))
        frames *= flags & 1
        return (frames, True) if frames else (None, False)
    if frame[36:40] == b"VBRI":
        return int.from_bytes(frame[50:54], "big") or None, False
    return None


def _make_xing_frame(file: BinaryIO, stream: _Stream) -> bytes:
    """Makes a frame that tells the decoder how many frames follow."""
    file.seek(stream.runs[0][0])
    head = bytearray(file.read(4))
    head[1] |= 1  # without a checksum
    for bit_rate in range(head[2] >> 4, 15):
        head[2] = bit_rate << 4 | head[2] & 0x0F
        header = _parse_header(bytes(head))
        if header and header.length >= header.info + 12:
            frames = stream.frames if stream.promised is None else stream.promised
            start = bytes(head) + bytes(header.info - 4) + b"Xing\x00\x00\x00\x01" + frames.to_bytes(4, "big")
            return start.ljust(header.length, b"\0")
    raise AssertionError("every format has a frame that is long enough")


def _skip_tags(file: BinaryIO, at: int) -> int:
    """Returns where the tags that start at byte `at` end."""
    while True:
        file.seek(at)
        head = file.read(32)
        if head.startswith(b"TAG"):
            at += 128
        elif head.startswith(b"APETAGEX") and len(head) == 32:
            at += 32 + int.from_bytes(head[12:16], "little")
        elif length := read_id3v2_length(head):
            at += length
        else:
            return at


def _is_tag(file: BinaryIO, at: int) -> bool:
    """Returns whether the end of a file from byte `at` on is a tag that does not say where it ends."""
    file.seek(at)
    return file.read(11) == b"LYRICSBEGIN" or find_bytes(file, b"APETAGEX", at) is not None
