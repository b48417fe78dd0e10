"""Clips that stay on the devices: the same batches as those read from disk, on one device and on eight."""

import jax
import numpy as np
import pytest

from mfl_jax.data.batching import read_batches
from mfl_jax.training import device_memory, loop, resident_clips
from support.small import small_config


@pytest.mark.parametrize("devices", [1, 8])
def test_batches_equal_those_that_are_read(small_data, devices):
    clips = small_data[1].read("development")
    numbers, size = np.array([3, 0, 7, 7, 1]), 8
    resident = resident_clips.place_clips(clips, jax.devices()[:devices])
    take = resident_clips.compile_take_batch(jax.devices()[:devices])
    batch = take(resident, resident_clips.pad_numbers(numbers, size))
    (expected,) = read_batches(clips, numbers, size)
    assert set(batch) == set(expected)
    assert batch["log_mel"].sharding.num_devices == devices
    np.testing.assert_array_equal(batch["clip_mask"], [True] * 5 + [False] * 3)
    for name, array in expected.items():
        assert batch[name].dtype == array.dtype and batch[name].shape == array.shape
        np.testing.assert_array_equal(batch[name][:5], array[:5])


def test_numbers_of_several_runs_are_padded_alike():
    batch = resident_clips.pad_numbers(np.array([[5, 6], [8, 7]]), 3)
    np.testing.assert_array_equal(batch["numbers"], [[5, 6, 0], [8, 7, 0]])
    np.testing.assert_array_equal(batch["clip_mask"], [[True, True, False]] * 2)


def test_clips_on_disk_and_clips_that_do_not_fit_are_streamed(small_data, monkeypatch):
    clips = small_data[1].read("development")
    assert resident_clips.place_clips(clips, jax.devices()[:1])
    monkeypatch.setattr(device_memory, "RESIDENT_SHARE", 0.0)
    assert resident_clips.place_clips(clips, jax.devices()[:1]) == {}
    monkeypatch.undo()
    monkeypatch.setattr(type(clips), "arrays", None)
    assert resident_clips.place_clips(clips, jax.devices()[:1]) == {}


@pytest.mark.ci_only
@pytest.mark.lightly_optimised
def test_runs_on_two_devices_see_the_same_clips_streamed_or_resident(small_data, tmp_path, monkeypatch):
    """The same compiled step on the same values, so the losses are equal bit for bit."""
    root, dataset = small_data
    config = small_config(root, devices=2, epochs=1)
    assert loop.train(config, dataset, tmp_path / "resident")
    monkeypatch.setattr(device_memory, "RESIDENT_SHARE", 0.0)
    assert loop.train(config, dataset, tmp_path / "streamed")
    first, second = (loop.epoch_log.read(tmp_path / name / "metrics.jsonl") for name in ("resident", "streamed"))
    assert first[0]["train"] == second[0]["train"]
