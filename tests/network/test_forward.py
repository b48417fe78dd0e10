"""Normalisation, inference in small batches, and a network that is not `JointNetwork`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mfl_jax.network import forward
from support.networks import SMALL, assert_close, functional, noise, small_network, split

pytestmark = pytest.mark.lightly_optimised

FEATURE_STATS = {"mean": noise(64), "std": 1 + np.square(noise(64, seed=1))}


def make_batch(clips):
    return {
        "log_mel": noise(clips, 100, 64),
        "valid_frames": np.resize(np.int32([100, 0, 71]), clips),
        "clip_mask": np.arange(clips) % 3 < 2,
        "name": "not an array",
    }


def test_normalise_gives_mean_zero_and_deviation_one_and_zeroes_the_padding():
    log_mel = 3 * noise(2, 1000, 5) - 7
    stats = {"mean": log_mel[:, :600].mean((0, 1)), "std": log_mel[:, :600].std((0, 1))}
    normal = np.asarray(forward.normalise(log_mel, np.array([600, 600]), stats))
    assert normal.shape == log_mel.shape and normal.dtype == np.float32
    np.testing.assert_allclose(normal[:, :600].mean((0, 1)), 0, atol=1e-5)
    np.testing.assert_allclose(normal[:, :600].std((0, 1)), 1, rtol=1e-5)
    assert not normal[:, 600:].any()


@pytest.mark.parametrize(
    ("tasks", "clips"),
    [
        (("scene", "event"), 1),
        pytest.param(("scene", "event"), 9, marks=pytest.mark.ci_only),
        pytest.param(("scene",), 4, marks=pytest.mark.ci_only),
        (("event",), 5),
    ],
)
def test_inference_equals_applying_the_network_to_the_whole_batch(tasks, clips):
    build = small_network(SMALL, tasks=tasks)
    _, params, batch_stats = functional(build)
    graphdef, _, _ = split(nnx.eval_shape(build))
    batch = make_batch(clips)
    arrays = (params, batch_stats, FEATURE_STATS)
    logits = jax.jit(lambda: forward.infer(*arrays, batch, graphdef=graphdef))()
    expected, _ = forward.apply_network(*arrays, batch, graphdef=graphdef, train=False)
    assert_close(logits, expected, 1e-5)


class LinearNetwork(nnx.Module):
    """The least that `forward` needs of a network: linear scene logits of the time average, no events, a step counter."""

    def __init__(self, mel_bins, scenes, *, rngs):
        self.layer = nnx.Linear(mel_bins, scenes, rngs=rngs)
        self.batches = nnx.BatchStat(jnp.zeros(()))

    def __call__(self, log_mel, *, mask, train, axis_name, key):
        if train:
            self.batches[...] += 1
        return self.layer(log_mel.mean(1)), None


def test_another_network_fits_the_protocol():
    graphdef, params, batch_stats = split(LinearNetwork(64, 3, rngs=nnx.Rngs(params=0)))
    batch = make_batch(5)
    (scene_logits, event_logits), new_stats = forward.apply_network(
        params, batch_stats, FEATURE_STATS, batch, graphdef=graphdef, train=True
    )
    assert scene_logits.shape == (5, 3) and event_logits is None
    assert float(new_stats["batches"]) == 1
    inferred = forward.infer(params, batch_stats, FEATURE_STATS, batch, graphdef=graphdef)
    assert_close(inferred, (scene_logits, None), 1e-5)
