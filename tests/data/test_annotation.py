"""Events as frames, against exact fractions."""

import itertools
from fractions import Fraction

import numpy as np
import pytest

from mfl_jax.data import annotation
from mfl_jax.data.annotation import Event

EVENTS = ("cutlery", "dishes", "fan", "water tap running")
PAPER_HOP = {"hop_samples": 882, "sample_rate_hz": 44_100}
HOPS = [(882, 44_100), (441, 22_050), (160, 16_000), (1001, 44_100), (512, 48_000), (333, 11_025)]


def active_frames(onset_s, offset_s, frames=12, **options):
    """Returns the indices of the frames that one event activates."""
    active = annotation.events_to_frames([Event(onset_s, offset_s, "fan")], ["fan"], frames, **PAPER_HOP, **options)
    assert active.dtype == bool and active.shape == (frames, 1)
    return np.flatnonzero(active[:, 0]).tolist()


@pytest.mark.parametrize(
    ("onset_s", "offset_s", "frames"),
    [
        # 0.14 / 0.02 is 7.000000000000001 in floating point, and 0.06 / 0.02 is 3.0 where 0.58 / 0.02 is 28.999999999999996.
        (0.14, 0.16, [7]),
        (0.12, 0.14, [6]),
        (0.14, 0.1401, [7]),
        (0.06, 0.14, [3, 4, 5, 6]),
        (0.0, 0.02, [0]),
        (0.0, 0.020001, [0, 1]),
        (0.019999, 0.02, [0]),
        # Shorter than a frame: inside one, and across a border.
        (0.045, 0.046, [2]),
        (0.0399, 0.0401, [1, 2]),
        # Zero length: the frame that holds the time; at a border, the later one.
        (0.0, 0.0, [0]),
        (0.05, 0.05, [2]),
        (0.14, 0.14, [7]),
        # Times are rounded to microseconds: to 0.14 s, and to an event of zero length.
        (0.1399999999, 0.1600000001, [7]),
        (0.0500000001, 0.0500000003, [2]),
        # Past the end: partly, from the border on, and entirely.
        (0.2, 99.0, [10, 11]),
        (0.24, 0.3, []),
        (0.24, 0.24, []),
        (5.0, 6.0, []),
    ],
)
def test_frames_match_hand_computed_ones(onset_s, offset_s, frames):
    assert active_frames(onset_s, offset_s) == frames


def test_events_of_exactly_one_frame_activate_that_frame_alone():
    """Covers ten seconds, with decimal times as in a label list."""
    for t in range(500):
        event = Event(float(f"{t * 0.02:.2f}"), float(f"{(t + 1) * 0.02:.2f}"), "fan")
        active = annotation.events_to_frames([event], ["fan"], 500, **PAPER_HOP)
        assert np.flatnonzero(active[:, 0]).tolist() == [t]


def test_adjacent_events_neither_share_a_frame_nor_leave_a_gap():
    assert active_frames(0.02, 0.1) == [1, 2, 3, 4] and active_frames(0.1, 0.14) == [5, 6]


def test_overlapping_events_of_one_class_merge():
    events = [Event(0.06, 0.12, "fan"), Event(0.0, 0.08, "fan"), Event(0.02, 0.04, "fan"), Event(0.04, 0.08, "dishes")]
    active = annotation.events_to_frames(events, ["dishes", "fan"], 8, **PAPER_HOP)
    assert active.T.astype(int).tolist() == [[0, 0, 1, 1, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1, 0, 0]]


def test_without_events_no_frame_is_active():
    active = annotation.events_to_frames([], EVENTS, 5, **PAPER_HOP)
    assert active.shape == (5, 4) and not active.any()
    assert annotation.events_to_frames([Event(0.0, 1.0, "fan")], EVENTS, 0, **PAPER_HOP).shape == (0, 4)


def random_events(seed, hop, count=40, frames=60):
    """Draws events in whole microseconds; many start or end within one microsecond of a frame border."""
    rng = np.random.default_rng(seed)
    micros = rng.integers(0, int(1.2 * frames * hop * 10**6), (count, 2))
    for pair in micros[::2]:
        pair[rng.integers(2)] = max(0, round(int(rng.integers(frames)) * hop * 10**6) + rng.integers(-1, 2))
    micros.sort(axis=1)
    micros[::5, 1] = micros[::5, 0]
    return [(int(a), int(b), ("fan", "dishes")[i % 2]) for i, (a, b) in enumerate(micros)]


def reference_frames(exact, labels, frames, hop):
    """Implements the definition in exact arithmetic: a frame is active if an event overlaps it or a zero-length one is in it."""
    active = np.zeros((frames, len(labels)), bool)
    for t, (onset, offset, label) in itertools.product(range(frames), exact):
        onset, offset = Fraction(onset, 10**6), Fraction(offset, 10**6)
        begin, end = t * hop, (t + 1) * hop
        if (onset < end and offset > begin) if offset > onset else (begin <= onset < end):
            active[t, labels.index(label)] = True
    return active


@pytest.mark.parametrize(("hop_samples", "sample_rate_hz"), HOPS)
def test_frames_match_the_definition(hop_samples, sample_rate_hz):
    hop, labels = Fraction(hop_samples, sample_rate_hz), ("dishes", "unused", "fan")
    for seed in range(3):
        # Four events at a time, so that they rarely hide each other.
        exact = random_events(seed, hop)
        for part in range(0, len(exact), 4):
            few = exact[part : part + 4]
            events = [Event(onset / 10**6, offset / 10**6, label) for onset, offset, label in few]
            got = annotation.events_to_frames(events, labels, 60, hop_samples=hop_samples, sample_rate_hz=sample_rate_hz)
            np.testing.assert_array_equal(got, reference_frames(few, labels, 60, hop))


@pytest.mark.parametrize(("hop_samples", "sample_rate_hz"), HOPS)
@pytest.mark.parametrize("size", [1, 7, 25])
def test_frames_computed_in_pieces_match_the_whole(hop_samples, sample_rate_hz, size):
    """Covers events that begin before a piece, end after it, span it or miss it."""
    exact = random_events(3, Fraction(hop_samples, sample_rate_hz), count=6)
    events = [Event(onset / 10**6, offset / 10**6, label) for onset, offset, label in exact]
    options = {"hop_samples": hop_samples, "sample_rate_hz": sample_rate_hz}
    whole = annotation.events_to_frames(events, EVENTS, 75, **options)
    pieces = [annotation.events_to_frames(events, EVENTS, size, first_frame=first, **options) for first in range(0, 75, size)]
    np.testing.assert_array_equal(np.concatenate(pieces)[:75], whole)
    assert whole.any() and not whole.all()
