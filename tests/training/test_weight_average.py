"""Options of the training step with a network of one parameter: averaging, schedule and weight decay; and a step without any."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mfl_jax.training import augmentations, steps, task_balance, weight_average
from mfl_jax.training.optimiser import make_optimiser

pytestmark = pytest.mark.lightly_optimised

SCALARS = {
    **dict.fromkeys(steps.LOSS_SCALARS, 0.0), "alpha": 1.0, "beta": 1.0, "scene_weight": 1.0, "learning_rate": 0.1,
    "seed": np.uint32(0), "loss_terms": {}, "augmentations": {},
}  # fmt: skip
BATCH = {
    "scene": np.array([0, 1, 1]),
    "scene_mask": np.ones(3, bool),
    "clip_mask": np.ones(3, bool),
    "x": np.array([[2.0, 0.0], [1.0, 0.5], [-4.0, 0.0]], np.float32),
}
OPTIONS = {"graphdef": None, "threshold": 0.5, "axis_name": None}


@pytest.fixture(autouse=True)
def network(monkeypatch):
    """A network of one parameter, whose statistic is the number of training steps."""

    def apply_network(params, batch_stats, feature_stats, batch, **_):
        return (params["w"] * batch["x"], None), {"n": batch_stats["n"] + 1}

    monkeypatch.setattr(steps, "apply_network", apply_network)
    monkeypatch.setattr(steps, "infer", lambda *arguments, **_: apply_network(*arguments)[0])


def first_state(average=False):
    params, stats = {"w": jnp.float32(0.5)}, {"n": jnp.float32(0)}
    return steps.TrainState(
        step=jnp.int32(0), params=params, batch_stats=stats, opt_state=make_optimiser("radam", SCALARS).init(params),
        feature_stats={}, sums=steps.zero_sums(("scene",), 2, 1, SCALARS),
        average=weight_average.start_average(params, stats) if average else None,
    )  # fmt: skip


train_step = functools.partial(steps.train_step, reduction="mean", optimiser="radam", **OPTIONS)


def test_three_steps_by_hand():
    """With n = 0, 1, 2 the decays are 1 / 10, 2 / 11 and, since 3 / 12 is above it, 0.2."""
    average = {"params": {"w": jnp.float32(1)}, "batch_stats": {}}
    for step, value in enumerate((2.0, 4.0, 8.0)):
        average = weight_average.update_average(average, {"w": jnp.float32(value)}, {}, jnp.float32(0.2), jnp.int32(step))
    first = 0.1 * 1 + 0.9 * 2
    second = 2 / 11 * first + 9 / 11 * 4
    np.testing.assert_allclose(average["params"]["w"], 0.2 * second + 0.8 * 8, rtol=1e-6)


def test_steps_average_what_they_compute_and_evaluation_uses_it():
    step, state, plain = jax.jit(train_step), first_state(average=True), first_state()
    scalars = {**SCALARS, "ema_decay": np.float32(0.25)}
    expected = {"w": 0.5, "n": 0.0}
    for number in range(5):
        state, _ = step(state, BATCH, scalars)
        plain, _ = step(plain, BATCH, SCALARS)
        kept = min(0.25, (1 + number) / (10 + number))
        for key, value in (("w", float(plain.params["w"])), ("n", number + 1.0)):
            expected[key] = kept * expected[key] + (1 - kept) * value
    assert float(state.params["w"]) == float(plain.params["w"]) != 0.5 and plain.average is None
    average = {**state.average["params"], **state.average["batch_stats"]}
    np.testing.assert_allclose([average[key] for key in expected], list(expected.values()), rtol=1e-6)
    losses = {
        name: steps.eval_step(one, BATCH, SCALARS, **OPTIONS)["scene"]["loss"] for name, one in (("a", state), ("p", plain))
    }
    for name, weight in (("a", expected["w"]), ("p", float(plain.params["w"]))):
        logits = weight * np.float64(BATCH["x"])
        loss = (np.log(np.exp(logits).sum(-1)) - logits[np.arange(3), BATCH["scene"]]).sum()
        np.testing.assert_allclose(losses[name], loss, rtol=1e-5)
    assert abs(losses["a"] - losses["p"]) > 1e-3


def test_a_step_takes_its_scheduled_rate_and_decays_kernels_alone(monkeypatch):
    """In step 1 of a warm-up of 4 the rate is a half; so is that of the weight decay and of the log variances."""

    def apply_network(params, batch_stats, feature_stats, batch, **_):
        return (params["kernel"] * batch["x"] + params["bias"] * np.float32([1, 0]), None), batch_stats

    monkeypatch.setattr(steps, "apply_network", apply_network)
    params = {"kernel": jnp.float32(0.5), "bias": jnp.float32(0.25), task_balance.LOG_VARIANCES: {"scene": jnp.float32(0.5)}}
    start = dataclasses.replace(
        first_state(), step=jnp.int32(1), params=params, opt_state=make_optimiser("radam", SCALARS).init(params)
    )
    scalars = {**SCALARS, "balance_learning_rate": np.float32(0.3)}
    after = {
        name: jax.device_get(jax.jit(train_step)(start, BATCH, {**scalars, **more})[0].params)
        for name, more in {
            "plain": {}, "warm": {"warmup_steps": np.float32(4)},
            "both": {"warmup_steps": np.float32(4), "weight_decay": np.float32(0.8)},
        }.items()
    }  # fmt: skip
    moved = {name: jax.tree.map(lambda new, old: float(new - old), tree, params) for name, tree in after.items()}
    for half, whole in zip(*map(jax.tree.leaves, (moved["warm"], moved["plain"])), strict=True):
        assert whole != 0 and half == pytest.approx(whole / 2, rel=1e-3)
    assert after["both"]["kernel"] - after["warm"]["kernel"] == pytest.approx(-0.1 / 2 * 0.8 * 0.5, rel=1e-3)
    for name in ("bias", task_balance.LOG_VARIANCES):
        assert after["both"][name] == after["warm"][name]


def test_a_step_without_options_is_the_program_of_a_package_without_them(monkeypatch):
    def lower():
        return jax.jit(lambda *arguments: train_step(*arguments)).lower(first_state(), BATCH, SCALARS).as_text()

    program = lower()
    monkeypatch.setattr(augmentations, "AUGMENTATIONS", {})
    monkeypatch.setattr(steps.augmentations, "augment", lambda batch, *_: batch)
    monkeypatch.setattr(steps, "schedule_learning_rate", lambda scalars, step: scalars)
    monkeypatch.setattr(weight_average, "update_average", None)
    assert lower() == program
