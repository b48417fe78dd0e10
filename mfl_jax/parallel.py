"""One step on one device, or on many; of one run, or of several at once: the only module that knows of devices."""

import contextlib
import ctypes
import functools
from collections.abc import Callable

import jax
import numpy as np

AXIS = "device"
MEMBERS = "members"


def keep_freed_memory() -> None:
    """Lets the C library keep what a step frees for the next one, where it is glibc.

    It would give large blocks back to the system, and every step on a CPU would wait for gigabytes to be handed out and zeroed
    again. The price is that the process keeps the memory of its largest step to its end.
    """
    with contextlib.suppress(OSError, AttributeError):  # another system, another C library
        library = ctypes.CDLL("libc.so.6")
        trim_threshold, mmap_max = -1, -4  # M_TRIM_THRESHOLD and M_MMAP_MAX of malloc.h
        library.mallopt(mmap_max, 0)
        library.mallopt(trim_threshold, 2**31 - 1)


def compile_train_step(step: Callable, devices: list) -> Callable:
    """Compiles `step(state, batch, scalars, *, axis_name)`: jitted on one device, pmapped over many.

    The state goes in and comes out whole, one and the same on every device; the batch is split along its first axis.
    """
    if len(devices) == 1:
        return jax.jit(functools.partial(step, axis_name=None), donate_argnums=0)
    # out_axes=None takes one device's result for all, unverified: `step` itself must add up what devices hold in parts.
    mapped = jax.pmap(functools.partial(step, axis_name=AXIS), AXIS, in_axes=(None, 0, None), out_axes=None, devices=devices)
    return lambda state, batch, scalars: mapped(state, split(batch, len(devices)), scalars)


def compile_eval_step(step: Callable, devices: list) -> Callable:
    """As `compile_train_step`, but the state stays usable."""
    if len(devices) == 1:
        return jax.jit(functools.partial(step, axis_name=None))
    return compile_train_step(step, devices)


def compile_members(step: Callable, axes: tuple, devices: list, *, donate: bool) -> Callable:
    """Compiles `step(state, ...)` of one run for several runs at once: vmapped on one device, and pmapped over many.

    Args:
      step: of one run, on one device.
      axes: an entry an argument, 0 where each run has its own and None where all share one.
      devices: that share the runs.
      donate: whether the states may be overwritten.

    Returns:
      `step` for arguments with a leading axis of runs, whose states (the first argument and a first result) are laid out by
      `spread`; other results come back likewise.
    """
    donated = 0 if donate else ()
    many = jax.vmap(functools.partial(step, axis_name=None), in_axes=axes)
    if len(devices) == 1:
        return jax.jit(many, donate_argnums=donated)
    mapped = jax.pmap(many, MEMBERS, in_axes=axes, devices=devices, donate_argnums=donated)

    def call(state, *arguments):
        own = (spread(value, len(devices)) if axis == 0 else value for value, axis in zip(arguments, axes[1:], strict=True))
        return mapped(state, *own)

    return call


def spread(tree, devices: int):
    """Lays runs out over devices: [shape=(n, ...)] -> [shape=(devices, n / devices, ...)]; nothing to do for one device."""
    return tree if devices == 1 else jax.tree.map(lambda leaf: np.reshape(leaf, (devices, -1, *np.shape(leaf)[1:])), tree)


def gathered(tree, devices: int):
    """Undoes `spread`, on the host."""
    tree = jax.device_get(tree)
    return tree if devices == 1 else jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), tree)


def resident(tree, devices: list):
    """Puts arrays on every device, whole."""
    if len(devices) == 1:
        return jax.device_put(tree, devices[0])
    mesh = jax.sharding.Mesh(np.array(devices), (MEMBERS,))
    return jax.device_put(tree, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()))


def split(batch: dict, parts: int) -> dict:
    """Splits the first axis: [shape=(B, ...)] -> [shape=(parts, B // parts, ...)]."""
    return {key: np.reshape(value, (parts, -1, *value.shape[1:])) for key, value in batch.items()}


def padded_batch_size(batch_size: int, devices: int) -> int:
    """The smallest multiple of `devices` that holds `batch_size` clips; the surplus is masked out."""
    return -(-batch_size // devices) * devices
