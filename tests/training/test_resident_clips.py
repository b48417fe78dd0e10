"""Clips that stay on the devices: the same batches as those read from disk, on one device and on eight."""

import jax
import numpy as np
import pytest

from mfl_jax.data import batching, random_crops
from mfl_jax.data.batching import read_batches
from mfl_jax.training import device_memory, loop, resident_clips
from mfl_jax.training.group_batches import GroupBatches
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


def draw_offsets(clips, order, seed=3):
    return random_crops.draw_offsets(order, clips.next_clip, clips.valid_frames, probability=0.8, seed=seed, epoch=1)


@pytest.mark.parametrize("devices", [1, 8])
def test_windows_equal_those_that_are_read(small_data, devices):
    """Bit for bit, on one device and on eight."""
    clips = small_data[1].read("development")
    numbers, size = batching.shuffle_indices(np.arange(len(clips)), seed=3, epoch=1)[:21], 24
    offsets = draw_offsets(clips, numbers)
    assert 0 < (offsets > 0).sum() < 14
    resident = resident_clips.place_clips(clips, jax.devices()[:devices])
    take = resident_clips.compile_take_batch(jax.devices()[:devices])
    batch = take(resident, resident_clips.pad_numbers(numbers, size, offset=offsets, next_clip=clips.next_clip[numbers]))
    (expected,) = read_batches(clips, numbers, size, offsets=offsets)
    assert set(batch) == set(expected)
    assert batch["log_mel"].sharding.num_devices == devices
    for name, array in expected.items():
        assert batch[name].dtype == array.dtype and batch[name].shape == array.shape
        np.testing.assert_array_equal(batch[name][:21], array[:21])


@pytest.mark.parametrize("share_of_memory", [0.25, 0.0])
def test_runs_of_a_group_get_the_windows_of_each_run_alone(small_data, monkeypatch, share_of_memory):
    monkeypatch.setattr(device_memory, "RESIDENT_SHARE", share_of_memory)
    clips = small_data[1].read("development")
    training = np.arange(1, len(clips))
    batches = GroupBatches([3, 4], 9, clips, training, jax.devices()[:1], random_crops=[0.8, 0.8])
    assert bool(batches.clips) == (share_of_memory > 0)
    got = [batch for batch, _ in batches.epoch(1)]
    assert [batch["clip_mask"].sum() for batch in got] == [18, 18, 10]
    for later, batch in zip(batches.epoch(1, first=1), got[1:], strict=True):
        jax.tree.map(np.testing.assert_array_equal, later[0], batch)
    take = jax.jit(jax.vmap(resident_clips.take_batch, in_axes=(None, 0)))
    for run, seed in enumerate((3, 4)):
        order = batching.shuffle_indices(training, seed=seed, epoch=1)
        alone = list(read_batches(clips, order, 9, offsets=draw_offsets(clips, order, seed)))
        for batch, expected in zip(got, alone, strict=True):
            rows = take(batches.clips, batch) if batches.clips else batch
            assert set(rows) == set(expected)
            for name, array in expected.items():
                counted = expected["clip_mask"]
                np.testing.assert_array_equal(rows[name][run][counted], array[counted])


def test_without_random_crops_the_program_is_that_of_a_package_without_them(small_data):
    """Neither arrays nor operations beyond one gather per array; with them the program is another one."""
    clips = small_data[1].read("development")

    def plain(clips, batch):
        return {name: array[batch["numbers"]] for name, array in clips.items()} | {"clip_mask": batch["clip_mask"]}

    def lower(take, batch):
        return jax.jit(lambda *arguments: take(*arguments)).lower(clips.arrays, batch).as_text()

    (batch, _), (windows, _) = (
        next(GroupBatches([0], 8, clips, np.arange(24), jax.devices()[:1], random_crops=[probability]).epoch(0))
        for probability in (0.0, 0.5)
    )
    batch, windows = ({name: array[0] for name, array in one.items()} for one in (batch, windows))
    assert set(batch) == {"numbers", "clip_mask"} and set(windows) == {*batch, "offset", "next_clip"}
    assert lower(resident_clips.take_batch, batch) == lower(plain, batch)
    assert lower(resident_clips.take_batch, windows) != lower(plain, batch)


@pytest.mark.ci_only
@pytest.mark.lightly_optimised
def test_runs_on_two_devices_see_the_same_clips_streamed_or_resident(small_data, tmp_path, monkeypatch):
    """The same compiled step on the same values, so the losses are equal bit for bit."""
    root, dataset = small_data
    config = small_config(root, devices=2, epochs=1, random_crops=0.5)
    assert loop.train(config, dataset, tmp_path / "resident")
    monkeypatch.setattr(device_memory, "RESIDENT_SHARE", 0.0)
    assert loop.train(config, dataset, tmp_path / "streamed")
    first, second = (loop.epoch_log.read(tmp_path / name / "metrics.jsonl") for name in ("resident", "streamed"))
    assert first[0]["train"] == second[0]["train"]
