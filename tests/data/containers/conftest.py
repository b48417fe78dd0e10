"""What the tests of audio files share: a recording of noise, and how a file is read."""

import io

import numpy as np
import pytest
import soundfile

from mfl_jax.data import audio_reader

RATE = 44_100


@pytest.fixture(scope="session")
def encode():
    """A function that returns the content of a file with `seconds` of noise."""

    def encode(format, subtype, *, seconds=3.0, rate=RATE, channels=1, seed=0):
        noise = np.random.default_rng(seed).uniform(-0.3, 0.3, (round(seconds * rate), channels))
        file = io.BytesIO()
        soundfile.write(file, noise, rate, format=format, subtype=subtype)
        return file.getvalue()

    return encode


@pytest.fixture
def read(tmp_path):
    """A function that reads a file of some content as the project does; returns its samples and its warning."""

    def read(content, rate=RATE):
        warnings = []
        (tmp_path / "a.audio").write_bytes(content)
        blocks = list(audio_reader.stream_mono(tmp_path / "a.audio", rate, warnings.append))
        assert len(warnings) <= 1
        return np.concatenate(blocks), "".join(warnings)

    return read
