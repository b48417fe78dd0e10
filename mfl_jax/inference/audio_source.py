"""A recording to predict."""

import dataclasses
import pathlib

import soundfile


@dataclasses.dataclass(frozen=True)
class AudioSource:
    """An audio file, and the name that the recording has in everything written about it."""

    name: str
    file: pathlib.Path


def read_duration_s(source: AudioSource) -> float | None:
    """Reads the length of a recording from its header; None if the header is broken or does not say, or it is no file."""
    if not source.file.is_file():  # a pipe would wait for its writer
        return None
    try:
        info = soundfile.info(source.file)
    except (soundfile.SoundFileError, OSError, ValueError):
        return None
    return info.frames / info.samplerate if 0 < info.frames < 2**62 and info.samplerate > 0 else None
