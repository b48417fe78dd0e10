"""One step on one device, or on many: the only module that knows of devices."""

import functools
from collections.abc import Callable

import jax
import numpy as np

AXIS = "device"


def compile_train_step(step: Callable, devices: list) -> Callable:
    """Compiles `step(state, batch, weights, *, axis_name)`: jitted on one device, pmapped over many.

    The state goes in and comes out whole, one and the same on every device; the batch is split along its first axis.
    """
    if len(devices) == 1:
        return jax.jit(functools.partial(step, axis_name=None), donate_argnums=0)
    # out_axes=None takes one device's result for all, unverified: `step` itself must add up what devices hold in parts.
    mapped = jax.pmap(functools.partial(step, axis_name=AXIS), AXIS, in_axes=(None, 0, None), out_axes=None, devices=devices)
    return lambda state, batch, weights: mapped(state, split(batch, len(devices)), weights)


def compile_eval_step(step: Callable, devices: list) -> Callable:
    """As `compile_train_step`, but the state stays usable."""
    if len(devices) == 1:
        return jax.jit(functools.partial(step, axis_name=None))
    return compile_train_step(step, devices)


def split(batch: dict, parts: int) -> dict:
    """Splits the first axis: [shape=(B, ...)] -> [shape=(parts, B // parts, ...)]."""
    return {key: np.reshape(value, (parts, -1, *value.shape[1:])) for key, value in batch.items()}


def padded_batch_size(batch_size: int, devices: int) -> int:
    """The smallest multiple of `devices` that holds `batch_size` clips; the surplus is masked out."""
    return -(-batch_size // devices) * devices
