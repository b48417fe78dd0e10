"""Finds out how much audio a file should hold, and whether any of it is missing or out of place."""

import pathlib

from mfl_jax.data.containers import flac, iff, mpeg, ogg
from mfl_jax.data.containers.part import Part
from mfl_jax.data.containers.search import read_id3v2_length


def find_parts(path: pathlib.Path) -> list[Part]:
    """Finds the recordings in a file, at least one: several if files were joined byte by byte.

    WAV, RF64, W64 and AIFF need only their headers; FLAC, OGG and MP3 files are read once. Other formats are taken as they are.

    Raises:
      InputError: something is missing in the middle of a recording, so that the times after it are unknown.
    """
    with path.open("rb", buffering=1 << 16) as file:
        magic = file.read(16)
        if magic[:4] == b"OggS":
            return ogg.find_parts(path, file)
        if parts := iff.find_parts(file):
            return parts
        start = file.seek(read_id3v2_length(magic))
        if file.read(4) == b"fLaC":
            return flac.find_parts(file, start)
        if magic[:3] == b"ID3" or (magic[:1] == b"\xff" and len(magic) > 1 and magic[1] >= 0xE0):
            return mpeg.find_parts(path, file)
    return [Part()]
