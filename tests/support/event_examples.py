"""Frame scores of small recordings, with their events, for the tests of event scores."""

import io

import numpy as np
import rich.console

from mfl_jax.data.annotation import Event
from mfl_jax.scoring import score_tables

HOP = {"hop_s": 1.0, "durations_s": dict.fromkeys("wxyz", 30.0)}
"""Four recordings of 30 frames of a second: two minutes in all, so that one false positive is a rate of 30 per hour."""


def events(*rows):
    return [Event(*row) for row in rows]


def score_spans(**spans):
    """Recording -> scores of one class: 0.1 outside the span (first, last, score) of the recording."""
    scores = {name: np.full((30, 1), 0.1, np.float32) for name in "wxyz"}
    for name, (first, last, score) in spans.items():
        scores[name][first:last] = score
    return scores


SCORES = score_spans(w=(5, 10, 0.9), x=(5, 10, 0.7), y=(0, 3, 0.8), z=(0, 3, 0.6))
REFERENCE = {"w": events((5, 10, "a")), "x": events((5, 10, "a")), "y": [], "z": []}


def random_scores(*, recordings=10, frames=200, labels=("a", "b", "c"), hop_s=0.2, seed=0):
    """Frame scores that rise at reference events. Events of one label do not touch, and no time is on the edge of a frame."""
    rng = np.random.default_rng(seed)
    scores, reference = {}, {}
    for name in map(str, range(recordings)):
        logits = rng.normal(-2, 0.9, (frames, len(labels)))
        reference[name] = []
        for column, label in enumerate(labels):
            times = np.sort(rng.uniform(0, frames * hop_s, 4)).round(4)
            for onset, offset in times.reshape(2, 2).tolist():
                logits[int(onset / hop_s) : int(offset / hop_s) + 1, column] += rng.uniform(1, 5)
                reference[name].append(Event(onset, offset, label))
        scores[name] = (1 / (1 + np.exp(-logits))).astype(np.float32)
    return scores, reference, list(labels), {"hop_s": hop_s, "durations_s": dict.fromkeys(scores, frames * hop_s)}


def print_to_text(scores):
    """The text that `print_event_scores` prints."""
    out = io.StringIO()
    score_tables.print_event_scores(scores, rich.console.Console(file=out, width=120))
    return out.getvalue()
