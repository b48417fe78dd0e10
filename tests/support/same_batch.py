"""The same batches for one device, for many, and for the devices of several hosts, and how far apart what they come to is.

RAdam's first steps are tiny and unrectified, so that a loose comparison of parameters would prove nothing: the gradients of the
first step are compared, then twenty large steps, and the comparison is shown to fail when a sum over devices is left out.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from mfl_jax.data.mel_spectrogram import MelConfig
from mfl_jax.data.prepared_dataset import Dataset
from mfl_jax.runtime import parallel
from mfl_jax.training import setup, steps
from support.small import small_config

CLIPS = 14  # no multiple of eight: the last device holds padding alone
DATASET = Dataset(
    directory=None, scenes=("a", "b", "c"), events=("x", "y", "z", "w"), mel=MelConfig(mel_bins=32), clip_frames=50, clips={},
    fingerprint="",
)  # fmt: skip


def batches(count):
    """Learnable noise: each scene and each event has its own bins; clips of unequal length."""
    rng = np.random.default_rng(1)
    for _ in range(count):
        scene = rng.integers(0, 3, CLIPS)
        events = rng.random((CLIPS, 50, 4)) < 0.2
        log_mel = rng.standard_normal((CLIPS, 50, 32)) + 2 * events @ rng.standard_normal((4, 32))
        log_mel += np.eye(3)[scene][:, None] @ np.repeat(np.eye(3), 11, axis=1)[:, :32]
        yield {
            "log_mel": log_mel.astype(np.float32),
            "events": events,
            "scene": scene.astype(np.int32),
            "valid_frames": rng.integers(20, 51, CLIPS).astype(np.int32),
            "clip_mask": np.ones(CLIPS, bool),
        }


def rows_of(built, batch):
    """The rows of this host, of a batch that is filled up for all devices."""
    filled = {key: np.pad(value, [(0, built.padded_size - CLIPS)] + [(0, 0)] * (value.ndim - 1)) for key, value in batch.items()}
    return {key: value[built.rows] for key, value in filled.items()}


def build(tmp_path, devices, **fields):
    return setup.build_run(small_config(tmp_path, devices=devices, batch_size=CLIPS, **fields), DATASET)


def distance(a, b):
    return float(jnp.linalg.norm(jnp.ravel(a) - jnp.ravel(b)))


def gradients(built, batch):
    """The loss, gradients, batch statistics and sums of the first step."""
    function = functools.partial(steps.loss_and_gradients, graphdef=built.graphdef, reduction="mean", threshold=0.5)
    state = built.initial

    def of(batch, axis_name):
        loss, grads, stats, sums = function(
            state.params, state.batch_stats, state.feature_stats, batch, built.scalars, axis_name=axis_name
        )
        return loss, grads, stats, sums

    if len(built.devices) == 1:
        return jax.jit(functools.partial(of, axis_name=None))(batch)
    own = len([device for device in built.devices if device in jax.local_devices()])
    mapped = jax.pmap(
        functools.partial(of, axis_name="device"), "device", out_axes=None,
        devices=None if parallel.host_count() > 1 else built.devices,
    )  # fmt: skip
    return mapped(parallel.split_batch(rows_of(built, batch), own))


def worst_leaf(got, want):
    """The largest relative L2 difference of a leaf; leaves that are zero count absolutely."""
    pairs = zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True)
    return max(distance(a, b) / max(float(jnp.linalg.norm(jnp.ravel(b))), 1e-6) for a, b in pairs)


def after_twenty_steps(built):
    state, losses = jax.tree.map(jnp.copy, built.initial), []
    for batch in batches(20):
        state, loss = built.train_step(state, rows_of(built, batch), built.scalars)
        losses.append(float(loss))
    return state, losses


def moved_apart(built, got, want):
    """The largest difference of a leaf, as a share of the distance that it moved."""
    leaves = zip(*(jax.tree.leaves(tree) for tree in (built.initial.params, got.params, want.params)), strict=True)
    return max(distance(a, b) / max(distance(b, start), 1e-6) for start, a, b in leaves)


class WithoutSums:
    """`jax.lax` whose psum does nothing."""

    def __getattr__(self, name):
        return (lambda tree, axis_name: tree) if name == "psum" else getattr(jax.lax, name)


class FakeJax:
    lax = WithoutSums()

    def __getattr__(self, name):
        return getattr(jax, name)
