"""Windows and averaged scores, against a reference that slices the whole spectrogram and averages frame by frame."""

import numpy as np
import pytest

from mfl_jax.inference import windows

# Clip and stride in frames: whole clips, halves, quarters, parts that do not divide a clip, and every frame.
SHAPES = [(8, 8), (8, 4), (8, 2), (8, 1), (8, 3), (8, 7), (9, 4), (1, 1), (2, 1), (50, 12), (100, 25), (100, 50), (100, 37)]


def lengths(clip, stride):
    """All lengths up to two clips, lengths around multiples of a clip, and long ones."""
    around = [clip * k + d for k in (3, 4, 7) for d in (-stride, -1, 0, 1, stride)]
    return sorted({*range(1, min(2 * clip + 2, 60)), *around, 777, 1999, 2000} - set(range(-stride, 1)))


def spectrogram(frames, seed=0):
    return np.random.default_rng(seed).standard_normal((frames, 3)).astype(np.float32)


def split_randomly(log_mel, seed):
    """Splits the spectrogram into pieces of random lengths, some of them empty."""
    rng = np.random.default_rng(seed)
    cuts = np.sort(rng.integers(0, len(log_mel) + 1, rng.integers(0, 6)))
    return np.split(log_mel, cuts)


def score_window(window, scale):
    """Scores that depend on the frame, on the window and on the position in it."""
    position = np.arange(len(window.log_mel))[:, None]
    return (window.log_mel[:, :2] * scale + np.sin(window.first + 1.0) + 0.1 * position).astype(np.float32)


def average(cut, clip, stride, score):
    averager = windows.OverlapAverager(clip, stride)
    parts = [averager.add(score(window), window.valid) for window in cut]
    return np.concatenate([*parts, averager.finish()])


def mean_of_windows(frames, cut, clip, stride, score):
    """The mean score of each frame over its windows, weighted by its distance to the nearer border of each."""
    result = []
    for frame in range(frames):
        total, weight = 0.0, 0
        for window in cut:
            position = frame - window.first
            if 0 <= position < window.valid:
                share = 1 if stride == clip else min(position + 1, clip - position)
                total, weight = total + share * score(window)[position].astype(float), weight + share
        result.append(total / weight)
    return np.array(result)


@pytest.mark.parametrize(("clip", "stride"), SHAPES)
def test_windows_are_slices_of_the_recording_padded_with_zeros(clip, stride):
    for frames in lengths(clip, stride):
        log_mel = spectrogram(frames)
        cut = list(windows.cut_windows(split_randomly(log_mel, frames), clip, stride))
        # Windows start at every multiple of the stride, as the averager assumes, up to the first that reaches the end or to the
        # start of the last clip, whichever is later.
        last = max(-(-max(frames - clip, 0) // stride) * stride, (frames - 1) // clip * clip)
        assert [window.first for window in cut] == list(range(0, last + 1, stride))
        covered = np.zeros(frames, bool)
        for first, valid, values in cut:
            assert values.shape == (clip, 3) and values.dtype == np.float32
            assert valid == min(clip, frames - first) > 0
            np.testing.assert_array_equal(values[:valid], log_mel[first : first + valid])
            assert not values[valid:].any()
            covered[first : first + valid] = True
        assert covered.all()


@pytest.mark.parametrize("pieces", [[], [np.zeros((0, 3), np.float32)]])
def test_empty_spectrogram_has_no_windows(pieces):
    assert list(windows.cut_windows(pieces, 8, 4)) == []
    assert windows.OverlapAverager(8, 4).finish().size == 0


def test_windows_do_not_depend_on_the_pieces():
    log_mel = spectrogram(333)
    whole = list(windows.cut_windows([log_mel], 50, 12))
    for pieces in (np.split(log_mel, range(1, 333)), [log_mel[:49], log_mel[49:]], [log_mel[:0], log_mel[:51], log_mel[51:]]):
        for expected, window in zip(whole, windows.cut_windows(iter(pieces), 50, 12), strict=True):
            assert window[:2] == expected[:2]
            np.testing.assert_array_equal(window.log_mel, expected.log_mel)


def test_windows_come_as_soon_as_they_are_complete():
    """An endless stream gives windows while it runs."""

    def pieces():
        yield spectrogram(8)
        raise RuntimeError("read ahead")

    cut = windows.cut_windows(pieces(), 8, 4)
    assert next(cut).first == 0
    with pytest.raises(RuntimeError, match="read ahead"):
        next(cut)


@pytest.mark.parametrize(("clip", "stride"), [(clip, stride) for clip, stride in SHAPES if clip % stride == 0])
def test_clips_of_a_data_set_are_among_the_windows(clip, stride):
    for frames in lengths(clip, stride):
        clips = list(windows.cut_windows([spectrogram(frames)], clip, clip))
        assert [window.first for window in clips] == list(range(0, frames, clip))
        among = {window.first: window for window in windows.cut_windows([spectrogram(frames)], clip, stride)}
        for expected in clips:
            assert among[expected.first].valid == expected.valid
            np.testing.assert_array_equal(among[expected.first].log_mel, expected.log_mel)


@pytest.mark.parametrize(("clip", "stride"), SHAPES)
def test_scores_are_the_weighted_mean_of_the_windows(clip, stride):
    for frames in (1, stride, clip - 1, clip, clip + 1, clip + stride, 2 * clip + 1, 3 * clip - 1, 3 * clip + stride + 1, 407):
        if frames < 1 or (stride == 1 and frames > 60):
            continue
        log_mel = spectrogram(frames, seed=frames)
        cut = list(windows.cut_windows(split_randomly(log_mel, frames), clip, stride))
        averaged = average(cut, clip, stride, lambda window: score_window(window, 2.0))
        expected = mean_of_windows(frames, cut, clip, stride, lambda window: score_window(window, 2.0))
        assert averaged.dtype == np.float32
        np.testing.assert_allclose(averaged, expected, rtol=1e-6, atol=1e-6, err_msg=f"{frames} frames")


@pytest.mark.parametrize(("clip", "stride"), SHAPES)
def test_network_that_sees_single_frames_has_no_seams(clip, stride):
    """Each frame comes out once, in its place and exactly; a constant stays constant."""
    for frames in lengths(clip, stride):
        log_mel = spectrogram(frames)
        log_mel[:, 1] = np.float32(0.3)
        cut = windows.cut_windows(split_randomly(log_mel, frames), clip, stride)
        np.testing.assert_array_equal(average(cut, clip, stride, lambda window: window.log_mel), log_mel)


def test_scores_come_out_as_soon_as_no_window_can_change_them():
    averager = windows.OverlapAverager(8, 4)
    sizes = [len(averager.add(np.ones((8, 1), np.float32), valid)) for valid in (8, 8, 6)]
    assert sizes == [4, 4, 4] and len(averager.finish()) == 2  # 14 frames


def test_padded_frames_are_ignored():
    """Scores of the padding are dropped, even where an earlier window covers the frame."""
    log_mel = np.ones((11, 1), np.float32)
    cut = list(windows.cut_windows([log_mel], 8, 4))

    def score(window):
        return np.where(np.arange(8)[:, None] < window.valid, 0.25, np.nan).astype(np.float32)

    np.testing.assert_array_equal(average(cut, 8, 4, score), np.full((11, 1), 0.25, np.float32))


def test_frames_are_weighted_by_their_distance_to_the_border():
    """Windows of 4 frames at 0 and 2 with scores 0 and 1: frames 2 and 3 are the last of one and the first of the other."""
    averager = windows.OverlapAverager(4, 2)
    first = averager.add(np.zeros((4, 1), np.float32), 4)
    second = averager.add(np.ones((4, 1), np.float32), 4)
    np.testing.assert_allclose(np.concatenate([first, second, averager.finish()])[:, 0], [0, 0, 1 / 3, 2 / 3, 1, 1], rtol=1e-6)


def test_model_without_events_has_no_columns():
    averager = windows.OverlapAverager(8, 4)
    assert averager.add(np.zeros((8, 0), np.float32), 8).shape == (4, 0)
    assert averager.finish().shape == (4, 0)
