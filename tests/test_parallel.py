"""One device against eight: the same batch gives the same gradients, losses, statistics and parameters.

RAdam's first steps are tiny and unrectified, so that a loose comparison of parameters would prove nothing: the gradients of the
first step are compared, then twenty large steps, and the comparison is shown to fail when a sum over devices is left out.
"""

import functools
import platform
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small import merged, small_config

from mfl_jax import models, parallel, run, step
from mfl_jax.data import Dataset
from mfl_jax.features import MelConfig

DEVICES = 8
CLIPS = 14  # no multiple of eight: the last device holds padding alone


@pytest.fixture(scope="module")
def dataset():
    return Dataset(
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


def padded(batch, size):
    return {key: np.pad(value, [(0, size - CLIPS)] + [(0, 0)] * (value.ndim - 1)) for key, value in batch.items()}


def build(tmp_path, dataset, devices, **fields):
    return run.build(small_config(tmp_path, devices=devices, batch_size=CLIPS, **fields), dataset)


def distance(a, b):
    return float(jnp.linalg.norm(jnp.ravel(a) - jnp.ravel(b)))


def gradients(built, batch, devices):
    """The gradients of the first step, on one device or on all."""
    function = functools.partial(step.loss_and_gradients, graphdef=built.graphdef, reduction="mean", threshold=0.5)
    state = built.initial

    def of(batch, axis_name):
        loss, grads, stats, sums = function(
            state.params, state.batch_stats, state.feature_stats, batch, built.scalars, axis_name=axis_name
        )
        return loss, grads, stats, sums

    if devices == 1:
        return jax.jit(functools.partial(of, axis_name=None))(batch)
    mapped = jax.pmap(functools.partial(of, axis_name="device"), "device", out_axes=None)
    return mapped(parallel.split(batch, devices))


def worst_leaf(got, want):
    """The largest relative L2 difference of a leaf; leaves that are zero count absolutely."""
    pairs = zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True)
    return max(distance(a, b) / max(float(jnp.linalg.norm(jnp.ravel(b))), 1e-6) for a, b in pairs)


def after_twenty_steps(built):
    state, losses = jax.tree.map(jnp.copy, built.initial), []
    for batch in batches(20):
        state, loss = built.train_step(state, padded(batch, built.padded_size), built.scalars)
        losses.append(float(loss))
    return state, losses


def moved_apart(built, got, want):
    """The largest difference of a leaf, as a share of the distance that it moved."""
    leaves = zip(*(jax.tree.leaves(tree) for tree in (built.initial.params, got.params, want.params)), strict=True)
    return max(distance(a, b) / max(distance(b, start), 1e-6) for start, a, b in leaves)


@pytest.fixture(scope="module")
def single(tmp_path_factory, dataset):
    built = build(tmp_path_factory.mktemp("one"), dataset, 1)
    batch = next(batches(1))
    return built, gradients(built, batch, 1), after_twenty_steps(built)


def eight(tmp_path, dataset):
    built = build(tmp_path, dataset, DEVICES)
    assert len(built.devices) == DEVICES and built.padded_size == 16
    return built, gradients(built, padded(next(batches(1)), 16), DEVICES)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_gradients_of_the_first_step_agree(single, tmp_path, dataset, reduction):
    loss, grads, stats, sums = single[1]
    _, (loss8, grads8, stats8, sums8) = eight(tmp_path, dataset)
    assert float(loss8) == pytest.approx(float(loss), rel=1e-5)
    assert worst_leaf(grads8, grads) <= 1e-4
    assert worst_leaf(stats8, stats) <= 1e-5
    for a, b in zip(jax.tree.leaves(sums8), jax.tree.leaves(sums), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)
    if reduction == "sum":
        one = build(tmp_path, dataset, 1, reduction="sum")
        many = build(tmp_path, dataset, DEVICES, reduction="sum")
        batch = next(batches(1))
        _, loss_one = one.train_step(jax.tree.map(jnp.copy, one.initial), batch, one.scalars)
        _, loss_many = many.train_step(many.initial, padded(batch, 16), many.scalars)
        assert float(loss_many) == pytest.approx(float(loss_one), rel=1e-5)


def test_twenty_large_steps_agree(single, tmp_path, dataset):
    built = build(tmp_path, dataset, DEVICES)
    state, losses = after_twenty_steps(built)
    expected, expected_losses = single[2]
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-3)
    assert losses[-1] < losses[0]
    assert moved_apart(built, state, expected) <= 0.01
    assert worst_leaf(state.batch_stats, expected.batch_stats) <= 1e-3
    for a, b in zip(jax.tree.leaves(state.sums["scene"]), jax.tree.leaves(expected.sums["scene"]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-2, atol=1)


class WithoutSums:
    """`jax.lax` whose psum does nothing."""

    def __getattr__(self, name):
        return (lambda tree, axis_name: tree) if name == "psum" else getattr(jax.lax, name)


class FakeJax:
    lax = WithoutSums()

    def __getattr__(self, name):
        return getattr(jax, name)


@pytest.mark.parametrize("module", [step, models], ids=["gradients", "batch statistics"])
def test_the_comparison_notices_a_sum_over_devices_left_out(single, tmp_path, dataset, monkeypatch, module):
    monkeypatch.setattr(module, "jax", FakeJax())
    built, (_, grads8, _, _) = eight(tmp_path, dataset)
    assert worst_leaf(grads8, single[1][1]) > 1e-2
    state, _ = after_twenty_steps(built)
    assert moved_apart(built, state, single[2][0]) > 0.05


def test_evaluation_agrees(single, tmp_path, dataset):
    built, many = single[0], build(tmp_path, dataset, DEVICES)
    state = single[2][0]
    batch = next(batches(1))
    one = built.eval_step(state, batch, built.scalars)
    eight = many.eval_step(state, padded(batch, 16), many.scalars)
    for a, b in zip(jax.tree.leaves(eight), jax.tree.leaves(one), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


def test_a_step_compiles_once_for_all_weights(single):
    built = single[0]
    batch = next(batches(1))
    before = built.train_step._cache_size()
    for alpha in (0.1, 0.2):
        built.train_step(jax.tree.map(jnp.copy, built.initial), batch, {**built.scalars, "alpha": np.float32(alpha)})
    assert built.train_step._cache_size() == before


def test_split_and_padding():
    assert (
        parallel.padded_batch_size(64, 8) == 64
        and parallel.padded_batch_size(5, 8) == 8
        and parallel.padded_batch_size(5, 1) == 5
    )
    assert parallel.split({"x": np.arange(12).reshape(6, 2)}, 3)["x"].tolist() == [
        [[0, 1], [2, 3]],
        [[4, 5], [6, 7]],
        [[8, 9], [10, 11]],
    ]


def test_more_devices_than_there_are_is_refused(tmp_path, dataset):
    with pytest.raises(run.InputError, match="devices is 99, and there are 8"):
        build(tmp_path, merged(dataset), 99)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the setting is of glibc")
def test_freed_memory_is_kept_for_the_next_step():
    code = """
import sys
import numpy as np
from mfl_jax import parallel
def resident_mb():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 / 2**20
if sys.argv[1] == "keep":
    parallel.keep_freed_memory()
before = resident_mb()
block = np.ones(2**25)
assert resident_mb() - before > 200
del block
print(resident_mb() - before)
"""
    kept, given_back = (
        float(subprocess.run([sys.executable, "-c", code, how], check=True, capture_output=True, text=True).stdout)
        for how in ("keep", "give back")
    )
    assert kept > 200 > 50 > given_back
