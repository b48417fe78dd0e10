"""A recording to predict."""

import dataclasses
import pathlib
from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np
import soundfile

from mfl_jax.data import audio_reader


class SoundSource(Protocol):
    """A recording in a file or in memory."""

    @property
    def name(self) -> str:
        """The name of the recording in everything written about it."""
        ...

    @property
    def place(self) -> str:
        """The file, or what error messages start with instead."""
        ...

    def stream_mono(self, sample_rate_hz: int, on_warning: Callable[[str], None]) -> Iterator[np.ndarray]:
        """Yields consecutive mono blocks, as `audio_reader.stream_mono` does."""
        ...


@dataclasses.dataclass(frozen=True)
class AudioSource:
    """An audio file, and the name that the recording has in everything written about it."""

    name: str
    file: pathlib.Path

    @property
    def place(self) -> str:
        return str(self.file)

    def stream_mono(self, sample_rate_hz: int, on_warning: Callable[[str], None]) -> Iterator[np.ndarray]:
        return audio_reader.stream_mono(self.file, sample_rate_hz, on_warning)


def read_duration_s(source: AudioSource) -> float | None:
    """Reads the length of a recording from its header; None if the header is broken or does not say, or it is no file."""
    if not source.file.is_file():  # a pipe would wait for its writer
        return None
    try:
        info = soundfile.info(source.file)
    except (soundfile.SoundFileError, OSError, ValueError):
        return None
    return info.frames / info.samplerate if 0 < info.frames < 2**62 and info.samplerate > 0 else None
