"""Gradients of the first step in bfloat16 and in float32 products of stock precision, against float32 of full precision."""

import contextlib
import functools
import statistics
from collections.abc import Iterator

import jax
import numpy as np

from benchmarks import workload
from benchmarks.accelerator.setting import Setting
from mfl_jax.training import setup, steps


def measure(setting: Setting) -> Iterator[dict]:
    """Compares them array by array: |a - b| / |b|."""
    exact = _gradients(setting, "float32", "highest")
    for compute in ("bfloat16", "float32"):
        errors = {
            name: float(np.linalg.norm(gradient - exact[name]) / np.linalg.norm(exact[name]))
            for name, gradient in _gradients(setting, compute, None).items()
        }
        worst = max(errors, key=lambda name: errors[name])
        yield {
            "piece": f"gradients_{compute}", "worst": errors[worst], "worst_array": worst,
            "median": statistics.median(errors.values()), "arrays": len(errors),
        }  # fmt: skip


def _gradients(setting: Setting, compute: str, precision: str | None) -> dict[str, np.ndarray]:
    """Computes the gradients of the first step: the path of each parameter -> its gradient, in float64."""
    config, dataset = setting.config(compute=compute), setting.dataset()
    graphdef, initial = setup.initial_state(config, dataset)
    compute_gradients = jax.jit(
        functools.partial(
            steps.loss_and_gradients, graphdef=graphdef, reduction=config.reduction, threshold=config.threshold, axis_name=None
        )
    )
    batch, scalars = workload.make_batch(dataset, config.batch_size), setup.step_scalars(config)
    with jax.default_matmul_precision(precision) if precision else contextlib.nullcontext():
        _, gradients, _, _ = compute_gradients(initial.params, initial.batch_stats, initial.feature_stats, batch, scalars)
    leaves, _ = jax.tree_util.tree_flatten_with_path(jax.device_get(gradients))
    return {"/".join(str(key.key) for key in path): np.asarray(leaf, np.float64) for path, leaf in leaves}
