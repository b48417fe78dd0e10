"""One step on one device, or on many, of one host or of several; of one run, or of several at once: all that knows of devices.

Every host (a process of JAX's, see `hosts.py`) runs the same program. The state is whole on every device of every host; a batch
is laid out over all devices, and each host reads the rows of its own.
"""

import contextlib
import ctypes
import functools
import hashlib
from collections import deque
from collections.abc import Callable

import jax
import numpy as np
from jax.experimental import multihost_utils

from mfl_jax.errors import InputError

AXIS = "device"
MEMBERS = "members"
STEPS_BEHIND = 2
"""How long after it was computed a figure of a step is looked at: by then nobody waits for it."""


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

    The state goes in and comes out whole, one and the same on every device; the batch is split along its first axis. Where the
    devices are those of several hosts, each gives its own rows of the batch (`rows_of_host`).
    """
    if len(devices) == 1:
        return jax.jit(functools.partial(step, axis_name=None), donate_argnums=0)
    own = sum(device.process_index == jax.process_index() for device in devices)
    # out_axes=None takes one device's result for all, unverified: `step` itself must add up what devices hold in parts.
    # Over several hosts pmap takes all devices there are, and from each host the rows of its own.
    mapped = jax.pmap(
        functools.partial(step, axis_name=AXIS), AXIS, in_axes=(None, 0, None), out_axes=None,
        devices=devices if own == len(devices) else None,
    )  # fmt: skip
    return lambda state, batch, scalars: mapped(state, split_batch(batch, own), scalars)


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
        own = (
            shard_members(value, len(devices)) if axis == 0 else value for value, axis in zip(arguments, axes[1:], strict=True)
        )
        return mapped(state, *own)

    return call


def shard_members(tree, devices: int):
    """Lays runs out over devices: [shape=(n, ...)] -> [shape=(devices, n / devices, ...)]; nothing to do for one device."""
    return tree if devices == 1 else jax.tree.map(lambda leaf: np.reshape(leaf, (devices, -1, *np.shape(leaf)[1:])), tree)


def gather_members(tree, devices: int):
    """Undoes `spread`, on the host."""
    tree = jax.device_get(tree)
    return tree if devices == 1 else jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), tree)


def replicate(tree, devices: list):
    """Puts arrays on every device, whole."""
    if len(devices) == 1:
        return jax.device_put(tree, devices[0])
    mesh = jax.sharding.Mesh(np.array(devices), (MEMBERS,))
    return jax.device_put(tree, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()))


def split_batch(batch: dict, parts: int) -> dict:
    """Splits the first axis: [shape=(B, ...)] -> [shape=(parts, B // parts, ...)]."""
    return {key: np.reshape(value, (parts, -1, *value.shape[1:])) for key, value in batch.items()}


def padded_batch_size(batch_size: int, devices: int) -> int:
    """The smallest multiple of `devices` that holds `batch_size` clips; the surplus is masked out."""
    return -(-batch_size // devices) * devices


def host_count() -> int:
    """Processes that take part in the run."""
    return jax.process_count()


def is_first_host() -> bool:
    """Whether this process writes and speaks for all."""
    return jax.process_index() == 0


def is_turn(number: int) -> bool:
    """Whether this host is to do piece `number` of work that is dealt out to hosts."""
    return number % host_count() == jax.process_index()


def host_rows(padded_size: int) -> slice:
    """The rows of a batch of `padded_size` clips that this host's devices take."""
    rows = padded_size // host_count()
    return slice(jax.process_index() * rows, (jax.process_index() + 1) * rows)


def allgather_bytes(content: bytes) -> list[bytes]:
    """What every host gave, in the order of the hosts; of the same length on all."""
    if host_count() == 1:
        return [content]
    rows = multihost_utils.process_allgather(np.frombuffer(content, np.uint8))
    return [row.tobytes() for row in np.asarray(rows)]


def sum_over_hosts(values: np.ndarray) -> np.ndarray:
    """The sum of an array over hosts, in float64 [shape of `values`]; the same bits on all."""
    values = np.ascontiguousarray(values, np.float64)
    return sum(np.frombuffer(one, np.float64).reshape(values.shape) for one in allgather_bytes(values.tobytes()))


def barrier() -> None:
    """Returns when all hosts have come here."""
    allgather_bytes(b".")


def check_hosts_agree(value: str, otherwise: str) -> None:
    """Raises an InputError on every host, `otherwise` in its words, if they do not all hold the same `value`."""
    sums = allgather_bytes(hashlib.sha256(value.encode()).digest())
    if other := [number for number, found in enumerate(sums) if found != sums[0]]:
        raise InputError(f"host {other[0]} {otherwise} host 0")


class StopVote:
    """Whether any host wants to stop: the same answer on all of them, at the same call.

    A sum over hosts, computed beside the steps and read `STEPS_BEHIND` calls later, so that no step waits for it. On one host
    the answer comes at once.
    """

    def __init__(self):
        self._asked = deque()
        self._sum = None
        if host_count() > 1:
            self._sum = jax.pmap(functools.partial(jax.lax.psum, axis_name=AXIS), AXIS, out_axes=None)

    def any(self, wanted: bool) -> bool:
        """To be called by all hosts equally often, with what this one wants."""
        if self._sum is None:
            return wanted
        self._asked.append(self._sum(np.full(jax.local_device_count(), wanted, np.int32)))
        return len(self._asked) > STEPS_BEHIND and bool(self._asked.popleft() > 0)
