"""Uncertainty weighting and dynamic weight average against the equations of their papers."""

import functools
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mfl_jax.training import loop, setup, steps, task_balance
from mfl_jax.training.optimiser import make_optimiser
from support.same_batch import worst_leaf
from support.small import small_config

pytestmark = pytest.mark.lightly_optimised


def test_uncertainty_weights_are_those_of_the_paper():
    sigma = {"scene": 0.5, "event": 3.0}
    logs = {task: jnp.float32(2 * math.log(value)) for task, value in sigma.items()}
    weights, penalty = task_balance.uncertainty_weights(logs, dict.fromkeys(logs, 1))
    assert {task: float(w) for task, w in weights.items()} == pytest.approx({t: s**-2 for t, s in sigma.items()})
    assert float(penalty) == pytest.approx(math.log(0.5) + math.log(3.0))
    _, penalty = task_balance.uncertainty_weights(logs, {"scene": 0, "event": 5})  # nothing is annotated for scenes
    assert float(penalty) == pytest.approx(math.log(3.0))


def test_the_uncertainty_loss_is_least_where_the_variance_is_twice_the_loss():
    # d/ds [L exp(-s) + s / 2] = 0 at exp(s) = 2 L.
    for loss in (0.1, 2.0):

        def total(s, loss=loss):
            weights, penalty = task_balance.uncertainty_weights({"scene": s}, {"scene": 1})
            return weights["scene"] * loss + penalty

        assert float(jax.grad(total)(jnp.float32(math.log(2 * loss)))) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(("rate", "reaches"), [(1e-2, True), (2e-4, False)])
def test_log_variances_reach_their_optimum_at_a_rate_of_their_own(rate, reaches):
    """Constant losses, and the 4,800 steps and the learning rate of the paper: s = log(2 L) is the optimum."""
    losses, network_rate = {"scene": 1.3, "event": 0.02}, 2e-4
    optimiser = make_optimiser("radam", {"learning_rate": network_rate})
    start = {task_balance.LOG_VARIANCES: task_balance.initial_log_variances(tuple(losses))}

    def total(params):
        weights, penalty = task_balance.uncertainty_weights(params[task_balance.LOG_VARIANCES], losses)
        return sum(weights[task] * loss for task, loss in losses.items()) + penalty

    def step(carry, _):
        params, state = carry
        updates, state = optimiser.update(jax.grad(total)(params), state, params)
        return (optax.apply_updates(params, task_balance.rescale_updates(updates, rate / network_rate)), state), None

    (params, _), _ = jax.jit(lambda: jax.lax.scan(step, (start, optimiser.init(start)), length=4800))()
    learned = params[task_balance.LOG_VARIANCES]
    distances = [abs(float(learned[task]) - math.log(2 * loss)) for task, loss in losses.items()]
    assert (max(distances) < 0.05) == reaches, distances
    assert reaches or max(distances) > 2  # weights wrong by a factor of e^2


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ([], {}),
        ([{"scene": 2.0, "event": 1.0}], {"scene": 1.0, "event": 1.0}),
        ([{"scene": 2.0, "event": 1.0}, {"scene": 1.0, "event": 0.5}], {"scene": 1.0, "event": 1.0}),
        # Ratios 0.5 and 1: 2 exp(r / 2) / (exp(0.25) + exp(0.5)).
        (
            [{"scene": 9.0, "event": 9.0}, {"scene": 2.0, "event": 1.0}, {"scene": 1.0, "event": 1.0}],
            {"scene": 2 / (1 + math.exp(0.25)), "event": 2 / (1 + math.exp(-0.25))},
        ),
        ([{"scene": 0.0, "event": 1.0}, {"scene": 0.0, "event": 1.0}], {"scene": 1.0, "event": 1.0}),
        ([{"scene": 1e-30, "event": 1.0}, {"scene": 1.0, "event": 1.0}], {"scene": 2.0, "event": 0.0}),
    ],
)
def test_dynamic_weight_average(losses, expected):
    assert task_balance.dynamic_weight_average(losses) == pytest.approx(expected)


def first_gradients(config, dataset):
    built = setup.build_run(config, dataset)
    clips = dataset.read("development")
    batch = clips.take(np.arange(5)) | {"clip_mask": np.ones(5, bool)}
    function = functools.partial(
        steps.loss_and_gradients, graphdef=built.graphdef, reduction="mean", threshold=0.5, axis_name=None
    )
    state = built.initial
    loss, gradients, _, sums = jax.jit(function)(state.params, state.batch_stats, state.feature_stats, batch, built.scalars)
    return float(loss), gradients, sums


@pytest.mark.ci_only
def test_uncertainty_starts_as_equal_weights_and_learns_from_the_losses(small_data):
    root, dataset = small_data
    plain, gradients, _ = first_gradients(small_config(root, alpha=1.0), dataset)
    loss, gradients_uncertainty, sums = first_gradients(small_config(root, alpha=1.0, balance="uncertainty"), dataset)
    assert loss == pytest.approx(plain, rel=1e-5)
    learned = gradients_uncertainty.pop(task_balance.LOG_VARIANCES)
    assert worst_leaf(gradients_uncertainty, gradients) <= 1e-4
    scene, event = sums["scene"]["loss"] / sums["clips"], sums["event"]["loss"]
    event /= sums["event"]["active"] + sums["event"]["inactive"]
    assert float(learned["scene"]) == pytest.approx(0.5 - float(scene), rel=1e-5)
    assert float(learned["event"]) == pytest.approx(0.5 - float(event), rel=1e-5)


@pytest.mark.parametrize("balance", [pytest.param("uncertainty", marks=pytest.mark.ci_only), "dwa"])
def test_a_run_records_its_balance(small_data, tmp_path, balance):
    root, dataset = small_data
    assert loop.train(small_config(root, alpha=1.0, balance=balance, epochs=4), dataset, tmp_path / "run")
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    weights = [record["train"]["balance"] for record in records]
    if balance == "dwa":
        losses = [{task: record["train"][task]["loss"] for task in ("scene", "event")} for record in records]
        assert weights[:2] == [{"scene": 1.0, "event": 1.0}] * 2
        assert weights[3] == pytest.approx(task_balance.dynamic_weight_average(losses[:3]), rel=1e-6)
    assert weights[3] != weights[2]


@pytest.mark.ci_only
def test_uncertainty_is_the_same_on_several_devices(small_data, tmp_path):
    root, dataset = small_data
    losses = []
    for devices in (1, 4):
        config = small_config(root, alpha=1.0, balance="uncertainty", devices=devices, epochs=2)
        assert loop.train(config, dataset, tmp_path / str(devices))
        lines = (tmp_path / str(devices) / "metrics.jsonl").read_text().splitlines()
        losses.append([json.loads(line)["train"]["loss"] for line in lines])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
