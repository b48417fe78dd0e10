"""Which clips count for scenes: by hand, in memory and on disk, in every kind of batch."""

import jax
import numpy as np
import pytest
import tensorflow_datasets as tfds

from mfl_jax.data import batching, prepared_dataset
from mfl_jax.data.scene_mask import scene_mask
from mfl_jax.training import device_memory, resident_clips
from mfl_jax.training.group_batches import GroupBatches


@pytest.mark.parametrize(
    ("share", "expected"),
    [(0.0, [1, 1, 1, 1, 1]), (0.1, [1, 1, 0, 1, 1]), (0.5, [1, 0, 0, 0, 1]), (1.0, [1, 0, 0, 0, 1])],
)
def test_short_remainders_do_not_count_but_short_recordings_do(share, expected):
    """Two clips of 500 frames and remainders of 249, 49 and 50; the last clip is all of a recording of 12 frames."""
    valid, start_s = np.array([500, 249, 49, 50, 12]), np.array([0.0, 10.0, 20.0, 10.0, 0.0])
    mask = scene_mask(valid, start_s, clip_frames=500, min_clip_share=share)
    assert mask.tolist() == list(map(bool, expected))


def test_a_clip_of_exactly_the_share_counts():
    """Though 0.07 * 100 is 7.000000000000001 in floating point."""
    valid = np.array([6, 7, 8])
    assert 0.07 * 100 > 7
    assert scene_mask(valid, np.full(3, 1.0), clip_frames=100, min_clip_share=0.07).tolist() == [False, True, True]


def expected_mask(clips, share):
    """The recordings of the small data set have 130 frames: clips of 50, 50 and 30, the last one at 2 s."""
    return np.full(len(clips), True) if share <= 0.6 else clips.clip_start_s < 1.5


@pytest.mark.parametrize("share", [0.0, 0.6, 0.61])
def test_clips_in_memory_and_on_disk_carry_the_mask(prepared, share):
    source = tfds.builder_from_directory(prepared.directory).as_data_source("development")
    for in_memory_bytes in (1 << 30, 0):
        clips = prepared_dataset.Clips(source, in_memory_bytes, min_clip_share=share)
        np.testing.assert_array_equal(clips.scene_mask, expected_mask(clips, share))
        np.testing.assert_array_equal(clips.take(np.array([5, 0, 23]))["scene_mask"], clips.scene_mask[[5, 0, 23]])
    assert prepared.read("development", min_clip_share=share).scene_mask.sum() == (16 if share > 0.6 else 24)
    assert prepared.read("development").scene_mask.all()


def test_every_kind_of_batch_carries_the_mask(prepared, monkeypatch):
    """Streamed, on the devices, and for several runs; padding rows of the last batch never count."""
    clips = prepared.read("development", min_clip_share=0.61)
    order = np.concatenate([np.flatnonzero(~clips.scene_mask), np.flatnonzero(clips.scene_mask)])[4:]  # 4 short clips, 16 others
    expected = np.zeros(24, bool)
    expected[4:20] = True
    streamed = list(batching.read_batches(clips, order, 12))
    np.testing.assert_array_equal(np.concatenate([batch["scene_mask"] for batch in streamed]), expected)
    resident = resident_clips.place_clips(clips, jax.devices()[:1])
    filled = resident_clips.take_batch(resident, resident_clips.pad_numbers(order, 24))
    np.testing.assert_array_equal(filled["scene_mask"] & filled["clip_mask"], expected)
    for share_of_memory in (0.25, 0.0):
        monkeypatch.setattr(device_memory, "RESIDENT_SHARE", share_of_memory)
        batches = GroupBatches([3, 4], 24, clips, order, jax.devices()[:1])
        assert bool(batches.clips) == (share_of_memory > 0)
        ((batch, _),) = batches.epoch(0)
        for run, seed in enumerate((3, 4)):
            of_run = jax.tree.map(lambda array, run=run: array[run], batch)
            of_run = resident_clips.take_batch(batches.clips, of_run) if batches.clips else of_run
            shuffled = clips.scene_mask[batching.shuffle_indices(order, seed=seed, epoch=0)]
            np.testing.assert_array_equal(of_run["scene_mask"] & of_run["clip_mask"], np.pad(shuffled, (0, 4)))
            assert not shuffled[:16].all()
