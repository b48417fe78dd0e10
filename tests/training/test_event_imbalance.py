"""Priors, class weights, adjusted logits and draws against numbers by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from mfl_jax.data import batching
from mfl_jax.training import event_imbalance


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
    priors = event_imbalance.compute_event_priors(FewClips(), np.arange(4))
    np.testing.assert_allclose(priors, [7 / 14, 0.5 / 14, 0.5 / 14], rtol=1e-6)


def test_priors_add_up_over_hosts():
    parts = []
    event_imbalance.compute_event_priors(FewClips(), np.array([0]), add=lambda sums: parts.append(sums) or sums)
    whole = event_imbalance.compute_event_priors(FewClips(), np.array([1, 2, 3]), add=lambda sums: sums + parts[0])
    np.testing.assert_allclose(whole, event_imbalance.compute_event_priors(FewClips(), np.arange(4)))


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0])
def test_class_weights_have_the_mean_1_over_active_frames(exponent):
    priors = np.array([0.4, 0.1, 1e-6], np.float32)
    weights = event_imbalance.class_weights(jnp.asarray(priors), jnp.float32(exponent))
    assert float((priors * weights).sum() / priors.sum()) == pytest.approx(1, rel=1e-5)
    np.testing.assert_allclose(weights / weights[0], (priors / priors[0]) ** -exponent, rtol=1e-5)


def test_an_exponent_of_0_gives_exactly_1():
    priors = jnp.array([0.3, 0.07, 0.011], jnp.float32)
    np.testing.assert_allclose(event_imbalance.class_weights(priors, jnp.float32(0)), 1, rtol=1e-6)


def test_logits_move_by_the_log_odds():
    adjusted = event_imbalance.adjust_logits(jnp.zeros((2, 2)), jnp.array([0.5, 0.2]), jnp.float32(2))
    np.testing.assert_allclose(adjusted, [[0, 2 * np.log(0.25)]] * 2, atol=1e-6)


def test_clips_with_rare_events_are_drawn_more_often():
    clips = FewClips()
    clips.events[3, 0, 1] = True
    # Clips with each event: 3, 2, 0. Fewest of the events of each clip: 3, 2, 3, 2.
    probabilities = event_imbalance.draw_probabilities(clips, np.arange(4), 1.0)
    np.testing.assert_allclose(probabilities, np.array([2, 3, 2, 3]) / 10)
    assert event_imbalance.draw_probabilities(clips, np.arange(4), 0.0) is None


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
