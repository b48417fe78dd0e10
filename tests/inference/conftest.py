"""Fixtures of the tests of inference."""

import pytest
import soundfile

from mfl_jax.inference.audio_source import AudioSource
from support import small


@pytest.fixture
def record(tmp_path):
    """A function that writes samples to a file and returns it as a source."""

    def write(name, samples, rate=small.RATE):
        soundfile.write(tmp_path / name, samples, rate, subtype="FLOAT" if name.endswith(".wav") else None)
        return AudioSource(name, tmp_path / name)

    return write
