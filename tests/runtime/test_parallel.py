"""One device against eight: same gradients, losses, statistics and parameters for the same batch."""

import platform
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mfl_jax.network import batch_norm
from mfl_jax.runtime import parallel
from mfl_jax.training import resident_clips, setup, steps
from support.same_batch import (
    CLIPS,
    after_twenty_steps,
    batches,
    build,
    gradients,
    moved_apart,
    rows_of,
    without_sums,
    worst_leaf,
)

pytestmark = pytest.mark.lightly_optimised

DEVICES = 8


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    """A run on one device, its first gradients, and its state after twenty steps."""
    built = build(tmp_path_factory.mktemp("one"), 1)
    return built, gradients(built, next(batches(1))), after_twenty_steps(built)


@pytest.fixture(scope="module")
def eight(tmp_path_factory):
    """The same run on eight devices."""
    built = build(tmp_path_factory.mktemp("eight"), DEVICES)
    assert len(built.devices) == DEVICES and built.padded_size == 16
    return built


def test_gradients_of_the_first_step_agree(single, eight):
    loss, grads, stats, sums = single[1]
    loss8, grads8, stats8, sums8 = gradients(eight, next(batches(1)))
    assert float(loss8) == pytest.approx(float(loss), rel=1e-5)
    assert worst_leaf(grads8, grads) <= 1e-4
    assert worst_leaf(stats8, stats) <= 1e-5
    for a, b in zip(jax.tree.leaves(sums8), jax.tree.leaves(sums), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


@pytest.mark.ci_only
def test_summed_losses_agree(tmp_path):
    one = build(tmp_path, 1, reduction="sum")
    many = build(tmp_path, DEVICES, reduction="sum")
    batch = next(batches(1))
    _, loss_one = one.train_step(jax.tree.map(jnp.copy, one.initial), batch, one.scalars)
    _, loss_many = many.train_step(many.initial, rows_of(many, batch), many.scalars)
    assert float(loss_many) == pytest.approx(float(loss_one), rel=1e-5)


@pytest.mark.ci_only
def test_twenty_large_steps_agree(single, eight):
    state, losses = after_twenty_steps(eight)
    expected, expected_losses = single[2]
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-3)
    assert losses[-1] < losses[0]
    assert moved_apart(eight, state, expected) <= 0.01
    assert worst_leaf(state.batch_stats, expected.batch_stats) <= 1e-3
    for a, b in zip(jax.tree.leaves(state.sums["scene"]), jax.tree.leaves(expected.sums["scene"]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-2, atol=1)


@pytest.mark.ci_only
@pytest.mark.parametrize("module", [steps, batch_norm], ids=["gradients", "batch statistics"])
def test_the_comparison_notices_a_missing_sum_over_devices(single, tmp_path, module):
    with without_sums(module):
        built = build(tmp_path, DEVICES)
        _, grads8, _, _ = gradients(built, next(batches(1)))
        state, _ = after_twenty_steps(built)
    assert worst_leaf(grads8, single[1][1]) > 1e-2
    assert moved_apart(built, state, single[2][0]) > 0.05


def test_evaluation_agrees(single, eight):
    built, state, batch = single[0], single[2][0], next(batches(1))
    padding = parallel.padded_batch_size(CLIPS, DEVICES) - CLIPS
    numbers = np.arange(CLIPS, dtype=np.int32)
    of_rows = {"number": np.pad(numbers, (0, padding), constant_values=-1)}
    got = eight.eval_step(state, rows_of(eight, batch) | of_rows, eight.scalars)
    want = built.eval_step(state, batch | {"number": numbers}, built.scalars)
    by_clip = jax.tree.map(lambda leaf: leaf[:CLIPS], got.pop("by_clip"))
    jax.tree.map(np.testing.assert_array_equal, by_clip, want.pop("by_clip"))
    assert by_clip["number"].tolist() == numbers.tolist()
    for name, count in got["event"]["counts"].items():
        np.testing.assert_array_equal(by_clip["event"][name].sum(0), count)
    histograms = [np.asarray(sums["event"].pop("histogram")) for sums in (got, want)]
    np.testing.assert_array_equal(*(counts.sum(-1) for counts in histograms))
    assert histograms[0].sum() == 4 * batch["valid_frames"][batch["event_mask"]].sum()
    # Scores that differ by rounding fall into the next bin at most.
    lower, upper = (counts.cumsum(-1) for counts in histograms)
    assert (lower[..., 1:] >= upper[..., :-1]).all() and (upper[..., 1:] >= lower[..., :-1]).all()
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


def test_a_step_compiles_once_for_all_loss_weights(single):
    built = single[0]
    batch = next(batches(1))
    before = built.train_step._cache_size()
    for alpha in (0.1, 0.2):
        built.train_step(jax.tree.map(jnp.copy, built.initial), batch, {**built.scalars, "alpha": np.float32(alpha)})
    assert built.train_step._cache_size() == before


@pytest.fixture
def compilations():
    """Gets an entry for every program that is compiled."""
    events = []

    def note(event, *_, **__):
        if event.endswith("backend_compile_duration"):
            events.append(event)

    jax.monitoring.register_event_duration_secs_listener(note)
    yield events
    jax.monitoring.clear_event_listeners()


@pytest.mark.parametrize("devices", [1, 2])
def test_the_second_step_is_not_compiled_again(compilations, devices):
    devices = jax.devices()[:devices]
    values = np.arange(8, dtype=np.float32)

    def step(state, batch, scalars, *, axis_name):
        total = scalars["one"] * (batch["x"] * batch["clip_mask"]).sum()
        return {"x": state["x"] + (total if axis_name is None else jax.lax.psum(total, axis_name))}, total

    train_step, take_batch = parallel.compile_train_step(step, devices), resident_clips.compile_take_batch(devices)
    clips = parallel.replicate({"x": values}, devices)
    state, counts = parallel.place_state({"x": jnp.zeros(())}, devices), []
    for numbers in ([0, 1], [2, 3], [4, 5]):
        batch = take_batch(clips, resident_clips.pad_numbers(np.array(numbers), 4))
        state, _ = train_step(state, batch, {"one": np.float32(1)})
        counts.append(len(compilations))
    assert counts[0] > 0 and counts[1:] == counts[:1] * 2 and state["x"] == values[:6].sum()

    # Several runs at once, which share the clips.
    def scale(state, clips, factor, *, axis_name):
        return {"x": state["x"] + factor * clips["x"].sum()}

    members = parallel.compile_members(scale, (0, None, 0), devices, donate=True)
    states, counts = parallel.place_members({"x": np.zeros(4, np.float32)}, devices), []
    for _ in range(3):
        states = members(states, clips, values[:4])
        counts.append(len(compilations))
    assert counts[1:] == counts[:1] * 2
    assert parallel.gather_members(states, len(devices))["x"].tolist() == (3 * values[:4] * values.sum()).tolist()


def test_batches_are_padded_and_split_over_devices():
    assert [parallel.padded_batch_size(*sizes) for sizes in ((64, 8), (5, 8), (5, 1))] == [64, 8, 5]
    assert parallel.split_batch({"x": np.arange(12).reshape(6, 2)}, 3)["x"].tolist() == [
        [[0, 1], [2, 3]],
        [[4, 5], [6, 7]],
        [[8, 9], [10, 11]],
    ]


def test_more_devices_than_the_machine_has_are_refused(tmp_path):
    with pytest.raises(setup.InputError, match="devices is 99, but there are only 8"):
        build(tmp_path, 99)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_freed_memory_is_kept_for_the_next_step():
    code = """
import sys
import numpy as np
from mfl_jax.runtime import parallel
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
    kept_mb, default_mb = (
        float(subprocess.run([sys.executable, "-c", code, mode], check=True, capture_output=True, text=True).stdout)
        for mode in ("keep", "default")
    )
    assert kept_mb > 200 > 50 > default_mb
