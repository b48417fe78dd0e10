"""Priors, biases and draws against numbers by hand."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from mfl_jax.data import batching
from mfl_jax.training import rare_events


@dataclasses.dataclass
class SimpleState:
    params: dict
    average: dict | None = None


class FewClips:
    """Four clips of five frames and three events; the last event never happens."""

    def __init__(self):
        self.events = np.zeros((4, 5, 3), bool)
        self.events[0, :3, 0] = True
        self.events[1, :, 0] = self.events[1, 4, 1] = True  # the last frame is padding
        self.events[2, :, 0] = True  # not annotated
        self.valid_frames = np.array([5, 4, 5, 5])
        self.event_mask = np.array([True, True, False, True])

    def take(self, numbers):
        return {name: getattr(self, name)[numbers] for name in ("events", "valid_frames", "event_mask")}


def test_priors_count_valid_annotated_frames():
    priors = rare_events.compute_event_priors(FewClips(), np.arange(4))
    np.testing.assert_allclose(priors, [7 / 14, 0.5 / 14, 0.5 / 14], rtol=1e-6)


def test_priors_add_up_over_hosts():
    parts = []
    rare_events.compute_event_priors(FewClips(), np.array([0]), add=lambda sums: parts.append(sums) or sums)
    whole = rare_events.compute_event_priors(FewClips(), np.array([1, 2, 3]), add=lambda sums: sums + parts[0])
    np.testing.assert_allclose(whole, rare_events.compute_event_priors(FewClips(), np.arange(4)))


def test_an_event_that_is_always_active_has_a_prior_below_1():
    clips = FewClips()
    clips.events[:, :, 2] = True
    np.testing.assert_allclose(rare_events.compute_event_priors(clips, np.arange(4))[2], 13.5 / 14)


def test_biases_are_the_log_odds_of_the_priors():
    params = {"event": {"output": {"bias": jnp.zeros(2), "kernel": jnp.ones((3, 2))}}, "shared": jnp.ones(1)}
    state = SimpleState(params=params, average={"params": params, "batch_stats": {}})
    started = rare_events.set_event_bias(state, np.array([0.5, 0.2]), 2.0)
    for changed in (started.params, started.average["params"]):
        np.testing.assert_allclose(changed["event"]["output"]["bias"], [0, 2 * np.log(0.25)], atol=1e-6)
        assert changed["event"]["output"]["kernel"] is params["event"]["output"]["kernel"]
    assert rare_events.set_event_bias(SimpleState(params=params), np.array([0.5, 0.2]), 1.0).average is None


def test_clips_with_rare_events_are_drawn_more_often():
    clips = FewClips()
    clips.events[3, 0, 1] = True
    # Clips with each event: 3, 2, 0. Fewest of the events of each clip: 3, 2, 3, 2.
    probabilities, nothing = rare_events.draw_probabilities(clips, np.arange(4), [1.0, 0.0])
    np.testing.assert_allclose(probabilities, np.array([2, 3, 2, 3]) / 10)
    assert nothing is None and rare_events.draw_probabilities(clips, np.arange(4), [0.0]) == [None]


def test_weights_of_a_large_exponent_do_not_vanish():
    """2 to the power of -2000 is 0 in float64; the clips with the rarest event are drawn alone."""
    clips = FewClips()
    clips.events[3, 0, 1] = True
    (probabilities,) = rare_events.draw_probabilities(clips, np.arange(4), [2000.0])
    np.testing.assert_array_equal(probabilities, [0, 0.5, 0, 0.5])


def test_draws_follow_the_probabilities_within_one():
    """Systematic sampling: each clip comes the whole part of its expected count, or once more."""
    probabilities = np.array([0.5, 0.25, 0.05, 0.2])
    indices = np.array([7, 3, 11, 5])
    counts = np.zeros(4)
    for epoch in range(400):
        drawn = batching.draw_indices(indices, probabilities, seed=3, epoch=epoch)
        count = np.array([(drawn == index).sum() for index in indices])
        assert len(drawn) == 4 and (abs(count - 4 * probabilities) < 1).all()
        counts += count
    np.testing.assert_allclose(counts / counts.sum(), probabilities, atol=0.02)
    np.testing.assert_array_equal(drawn, batching.draw_indices(indices, probabilities, seed=3, epoch=399))
