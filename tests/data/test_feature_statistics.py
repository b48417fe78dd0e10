"""Mean and standard deviation of the mel bins."""

import numpy as np
import pytest
import soundfile

from mfl_jax.data import feature_statistics
from mfl_jax.errors import InputError
from support.small import RATE, prepare_small, write_recordings


def test_statistics_cover_the_valid_frames(prepared):
    clips = prepared.read("development")
    indices = np.arange(0, 24, 2)
    batch = clips.take(indices)
    frames = np.concatenate([clip[:valid] for clip, valid in zip(batch["log_mel"], batch["valid_frames"], strict=True)])
    statistics = feature_statistics.compute_feature_statistics(clips, indices)
    np.testing.assert_allclose(statistics["mean"], frames.mean(0, dtype=np.float64), rtol=1e-5)
    np.testing.assert_allclose(statistics["std"], frames.std(0, dtype=np.float64), rtol=1e-4)


def test_hosts_with_different_clips_share_their_statistics(prepared):
    clips = prepared.read("development")
    expected = feature_statistics.compute_feature_statistics(clips, np.arange(24))
    sums = []

    def add_nothing(array):
        sums.append(array)
        return array

    feature_statistics.compute_feature_statistics(clips, np.arange(10), add=add_nothing)
    shared = feature_statistics.compute_feature_statistics(clips, np.arange(10, 24), add=lambda array: array + sums[0])
    for name, values in expected.items():
        np.testing.assert_allclose(shared[name], values, rtol=1e-5)


def test_no_clips_are_refused(prepared):
    with pytest.raises(InputError, match="at least one clip"):
        feature_statistics.compute_feature_statistics(prepared.read("development"), np.arange(0))


def test_silent_recordings_have_finite_statistics(tmp_path):
    root = write_recordings(tmp_path / "recordings", development=2, evaluation=2)
    for number in range(2):
        soundfile.write(root / "audio" / f"development_{number}.wav", np.zeros(RATE), RATE)
    clips = prepare_small(tmp_path / "data", root).read("development")
    statistics = feature_statistics.compute_feature_statistics(clips, np.arange(len(clips)))
    assert np.isfinite(statistics["mean"]).all() and (statistics["std"] == 1).all()
