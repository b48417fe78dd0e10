"""Searches files for bytes, in bounded memory."""

from typing import BinaryIO


def find_bytes(file: BinaryIO, pattern: bytes, start: int) -> int | None:
    """Returns the first position of `pattern` in a file at `start` or later, or None if it does not occur."""
    file.seek(start)
    rest, overlap = b"", len(pattern) - 1
    while block := file.read(1 << 16):
        border = rest + block[:overlap]
        if (index := border.find(pattern)) >= 0:
            return start - len(rest) + index
        if (index := block.find(pattern)) >= 0:
            return start + index
        rest = (rest + block)[-overlap:] if len(block) < overlap else block[-overlap:]
        start += len(block)
    return None


def read_id3v2_length(head: bytes) -> int:
    """Returns the length of the ID3v2 tag that starts with `head` (10 bytes); 0 if it is no such tag."""
    if len(head) < 10 or head[:3] != b"ID3" or max(head[6:10]) >= 128:
        return 0
    size = head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9]
    return 10 + size + (10 if head[5] & 0x10 else 0)
