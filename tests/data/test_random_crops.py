"""Windows across the borders of clips: against the frames of the whole recording, and which are drawn."""

import numpy as np
import pytest
import tensorflow_datasets as tfds

from mfl_jax.data import batching, prepared_dataset, random_crops
from mfl_jax.training.splits import split_development

FRAMES = 50
# The recordings of the small data set have 130 frames: clips of 50, 50 and 30.
LONGEST = {0.0: 49, 1.0: 30, 2.0: 0}
"""Start of a clip in its recording, in seconds -> the latest frame at which a window starts."""


def open_clips(prepared, in_memory_bytes):
    return prepared_dataset.Clips(tfds.builder_from_directory(prepared.directory).as_data_source("development"), in_memory_bytes)


@pytest.fixture(params=[1 << 30, 0], ids=["in memory", "on disk"])
def clips(prepared, request):
    return open_clips(prepared, request.param)


def expected_windows(clips, numbers, offsets):
    """The windows, cut from the joined valid frames of their recordings and padded as the clips are."""
    everything = clips.take(np.arange(len(clips)))
    expected = clips.take(numbers)
    for row, (number, offset) in enumerate(zip(numbers, offsets, strict=True)):
        parts = np.flatnonzero(clips.recording == clips.recording[number])
        parts = parts[np.argsort(clips.clip_start_s[parts])]
        first = FRAMES * parts.tolist().index(number) + offset
        for field in ("log_mel", "events"):
            joined = np.concatenate([everything[field][part][: everything["valid_frames"][part]] for part in parts])
            window = joined[first : first + FRAMES]
            expected[field][row][: len(window)] = window
        assert len(window) == everything["valid_frames"][number]
    return expected


def test_windows_are_the_frames_of_the_recording(clips):
    numbers = np.tile(np.arange(len(clips)), 4)
    longest = np.array([LONGEST[start] for start in clips.clip_start_s[numbers]])
    offsets = longest * np.repeat([0, 1, 2, 3], len(clips)) // 3
    got, expected = clips.take(numbers, offsets), expected_windows(clips, numbers, offsets)
    assert got.keys() == expected.keys()
    for field, array in expected.items():
        assert got[field].dtype == array.dtype
        np.testing.assert_array_equal(got[field], array)
    plain = clips.take(numbers)
    is_moved = offsets > 0
    assert (got["log_mel"] != plain["log_mel"]).any((1, 2)).tolist() == is_moved.tolist()
    assert (got["events"] != plain["events"])[is_moved].any()


def test_the_next_clip_follows_in_the_same_recording_and_the_same_part(clips):
    """The clips are stored in a random order."""
    is_last = clips.next_clip == np.arange(len(clips))
    assert is_last.tolist() == (clips.clip_start_s == 2.0).tolist()
    np.testing.assert_array_equal(clips.recording[clips.next_clip], clips.recording)
    np.testing.assert_array_equal(clips.clip_start_s[clips.next_clip], np.where(is_last, 2.0, clips.clip_start_s + 1))
    assert (clips.valid_frames[~is_last] == FRAMES).all()
    for validation in ("none", "fold2"):
        training, held_out = split_development(clips, validation)
        assert set(clips.next_clip[training]) <= set(training)
        assert not set(clips.recording[clips.next_clip[training]]) & set(clips.recording[held_out])


def test_next_clips_by_hand():
    recording = np.array(["b", "a", "b", "c", "a", "b"])
    start_s = np.array([20.0, 0.0, 0.0, 0.0, 10.0, 10.0])
    assert random_crops.find_next_clips(recording, start_s).tolist() == [0, 4, 5, 3, 4, 0]
    assert random_crops.find_next_clips(recording[:0], start_s[:0]).tolist() == []


def test_offsets_are_uniform_up_to_the_end_of_the_next_clip():
    """Clips of 4 frames: a full next one allows 0 ... 3, one of 2 frames 0 ... 2, and no next one 0."""
    order, epochs = np.array([2, 0, 1, 2]), 6000
    drawn = np.array([
        random_crops.draw_offsets(order, np.array([1, 2, 2]), np.array([4, 4, 2]), probability=0.8, seed=3, epoch=epoch)
        for epoch in range(epochs)
    ])  # fmt: skip
    assert not drawn[:, [0, 3]].any()
    for column, longest in ((1, 3), (2, 2)):
        counts = np.bincount(drawn[:, column], minlength=4)
        expected = np.where(np.arange(4) <= longest, 0.8 / (longest + 1), 0.0)
        expected[0] += 0.2
        np.testing.assert_allclose(counts / epochs, expected, atol=5 * np.sqrt(0.25 / epochs))
        assert counts[longest + 1 :].sum() == 0
    assert abs(np.corrcoef(drawn[:, 1], drawn[:, 2])[0, 1]) < 5 / np.sqrt(epochs)


def test_offsets_depend_only_on_seed_and_epoch():
    count = 40
    next_clip, valid = np.minimum(np.arange(count) + 1, count - 1), np.full(count, 500)

    def draw(seed, epoch, probability=1.0):
        return random_crops.draw_offsets(
            np.arange(count), next_clip, valid, probability=probability, seed=seed, epoch=epoch
        )  # fmt: skip

    drawn = [draw(*numbers).tolist() for numbers in ((0, 0), (0, 1), (1, 0), (0, 0))]
    assert drawn[0] == drawn[3] and len({tuple(offsets) for offsets in drawn}) == 3
    # Not the random numbers of the order, though drawn with the same seed and epoch.
    assert random_crops.STREAM != 0 and not draw(0, 0, 0.0).any()


def test_streamed_batches_hold_the_windows_of_their_clips(clips):
    """In batches of 10 on two hosts, each of which reads 6 of 12 rows."""
    order = batching.shuffle_indices(np.arange(len(clips)), seed=3, epoch=1)
    offsets = random_crops.draw_offsets(order, clips.next_clip, clips.valid_frames, probability=0.7, seed=3, epoch=1)
    assert 0 < (offsets > 0).sum() < 16
    hosts = [list(batching.read_batches(clips, order, 10, rows=rows, offsets=offsets)) for rows in (slice(0, 6), slice(6, 12))]
    assert [batch["clip_mask"].sum() for batches in hosts for batch in batches] == [6, 6, 4, 4, 4, 0]
    expected = expected_windows(clips, order, offsets)
    for field, array in expected.items():
        batches = [np.concatenate([batch[field][batch["clip_mask"]] for batch in both]) for both in zip(*hosts, strict=True)]
        np.testing.assert_array_equal(np.concatenate(batches), array)
