"""Trains the same batches on one device, on several, and on those of several hosts, and measures how far the results differ.

RAdam's first steps are tiny and unrectified, so a loose comparison of parameters would prove nothing. Tests compare the gradients
of the first step, then twenty large steps, and show that the comparison fails when a sum over devices is left out.
"""

import contextlib
import functools
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from mfl_jax.data.mel_spectrogram import MelConfig
from mfl_jax.data.prepared_dataset import Dataset
from mfl_jax.runtime import parallel
from mfl_jax.training import setup, steps
from support.small import small_config

CLIPS = 14  # not a multiple of eight: the last device holds only padding
DATASET = Dataset(
    directory=None, scenes=("a", "b", "c"), events=("x", "y", "z", "w"), mel=MelConfig(mel_bins=32), clip_frames=50, clips={},
    fingerprint="",
)  # fmt: skip


def batches(count):
    """Yields learnable noise: each scene and event has its own bins, and clips have unequal lengths."""
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
            "scene_mask": np.arange(CLIPS) % 5 != 3,  # not those of clips 3, 8 and 13
            "event_mask": np.arange(CLIPS) % 7 != 3,  # not those of clips 3 and 10
            "clip_mask": np.ones(CLIPS, bool),
        }


def rows_of(built, batch):
    """Pads a batch for all devices and returns the rows of this host."""
    filled = {key: np.pad(value, [(0, built.padded_size - CLIPS)] + [(0, 0)] * (value.ndim - 1)) for key, value in batch.items()}
    return {key: value[built.rows] for key, value in filled.items()}


def build(tmp_path, devices, **fields):
    return setup.build_run(small_config(tmp_path, devices=devices, batch_size=CLIPS, **fields), DATASET)


def distance(a, b):
    return float(jnp.linalg.norm(jnp.ravel(a) - jnp.ravel(b)))


def gradients(built, batch):
    """Computes the loss, gradients, batch statistics and sums of the first step."""
    state = built.initial
    arguments = state.params, state.batch_stats, state.feature_stats
    function = compile_gradients(built.graphdef, tuple(built.devices))
    if len(built.devices) == 1:
        return function(*arguments, batch, built.scalars)
    local = len([device for device in built.devices if device in jax.local_devices()])
    return function(*arguments, parallel.split_batch(rows_of(built, batch), local), built.scalars)


@functools.cache
def compile_gradients(graphdef, devices):
    function = functools.partial(steps.loss_and_gradients, graphdef=graphdef, reduction="mean", threshold=0.5)
    if len(devices) == 1:
        return jax.jit(functools.partial(function, axis_name=None))
    return jax.pmap(
        functools.partial(function, axis_name="device"), "device", in_axes=(None, None, None, 0, None), out_axes=None,
        devices=None if parallel.host_count() > 1 else devices,
    )  # fmt: skip


def worst_leaf(got, want):
    """Computes the largest relative L2 difference of a leaf; absolute for leaves that are zero."""
    pairs = zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True)
    return max(distance(a, b) / max(float(jnp.linalg.norm(jnp.ravel(b))), 1e-6) for a, b in pairs)


def after_twenty_steps(built):
    state, losses = jax.tree.map(jnp.copy, built.initial), []
    for batch in batches(20):
        state, loss = built.train_step(state, rows_of(built, batch), built.scalars)
        losses.append(float(loss))
    return state, losses


def moved_apart(built, got, want):
    """Computes the largest difference of a leaf, relative to the distance that it moved from the start."""
    leaves = zip(*(jax.tree.leaves(tree) for tree in (built.initial.params, got.params, want.params)), strict=True)
    return max(distance(a, b) / max(distance(b, start), 1e-6) for start, a, b in leaves)


class LaxWithoutSums:
    """`jax.lax` whose psum does nothing."""

    def __getattr__(self, name):
        return (lambda tree, axis_name: tree) if name == "psum" else getattr(jax.lax, name)


class JaxWithoutSums:
    """`jax` whose `lax.psum` does nothing."""

    lax = LaxWithoutSums()

    def __getattr__(self, name):
        return getattr(jax, name)


@contextlib.contextmanager
def without_sums(module):
    """Leaves out the sums over devices that a module computes, in steps compiled within the context."""

    def forget_compiled():
        setup.compile_steps.cache_clear()
        compile_gradients.cache_clear()

    forget_compiled()
    try:
        with mock.patch.object(module, "jax", JaxWithoutSums()):
            yield
    finally:
        forget_compiled()
