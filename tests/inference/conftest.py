"""Fixtures of the tests of inference."""

import numpy as np
import pytest
import soundfile

import mfl_jax
from mfl_jax.data import prepared_dataset
from mfl_jax.inference.audio_source import AudioSource
from support import small


@pytest.fixture
def record(tmp_path):
    """A function that writes samples to a file and returns it as a source."""

    def write(name, samples, rate=small.RATE):
        soundfile.write(tmp_path / name, samples, rate, subtype="FLOAT" if name.endswith(".wav") else None)
        return AudioSource(name, tmp_path / name)

    return write


@pytest.fixture(scope="session")
def dataset(trained_run):
    """The data set of the trained run."""
    return prepared_dataset.open_dataset("annotated_audio/small", trained_run[1] / "data")


@pytest.fixture(scope="session")
def model(trained_run):
    """The model of the trained run."""
    return mfl_jax.load(trained_run[0])


@pytest.fixture(scope="session")
def log_mel(dataset):
    """Five clips of full length [5, T, M] of the evaluation split."""
    clips = dataset.read("evaluation").take(np.arange(12))
    return clips["log_mel"][clips["valid_frames"] == dataset.clip_frames][:5]
