"""Steps over devices and hosts: a batch split over devices (pmap), several runs at once (vmap), and sums over hosts.

Every host (see `hosts.py`) runs the same program. Every device of every host holds the whole state. A batch is split over all
devices, and each host reads its own rows only.
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
"""Read results this many steps late, so that reading never blocks."""


def keep_freed_memory() -> None:
    """Makes glibc keep freed memory for the next step, instead of returning it to the system.

    Otherwise every step on a CPU waits for gigabytes to be mapped and zeroed again. In return, the process holds the memory of
    its largest step until it ends. No effect with other C libraries.
    """
    with contextlib.suppress(OSError, AttributeError):  # not glibc
        library = ctypes.CDLL("libc.so.6")
        trim_threshold, mmap_max = -1, -4  # M_TRIM_THRESHOLD and M_MMAP_MAX of malloc.h
        library.mallopt(mmap_max, 0)
        library.mallopt(trim_threshold, 2**31 - 1)


def compile_train_step(step: Callable, devices: list) -> Callable:
    """Compiles `step(state, batch, scalars, *, axis_name)`: jit on one device, pmap on several.

    The state is replicated and donated; the batch is split along its first axis. On several hosts, each passes its own rows of
    the batch (`host_rows`).
    """
    if len(devices) == 1:
        return jax.jit(functools.partial(step, axis_name=None), donate_argnums=0)
    local_count = sum(device.process_index == jax.process_index() for device in devices)
    # out_axes=None returns the result of one device, unverified: `step` itself must sum over devices.
    # On several hosts pmap uses all devices, and every host passes its own rows.
    mapped = jax.pmap(
        functools.partial(step, axis_name=AXIS), AXIS, in_axes=(None, 0, None), out_axes=None,
        devices=devices if local_count == len(devices) else None,
    )  # fmt: skip
    return lambda state, batch, scalars: mapped(state, split_batch(batch, local_count), scalars)


def compile_eval_step(step: Callable, devices: list) -> Callable:
    """Compiles as `compile_train_step` does, but does not donate the state."""
    if len(devices) == 1:
        return jax.jit(functools.partial(step, axis_name=None))
    return compile_train_step(step, devices)


def compile_members(step: Callable, axes: tuple, devices: list, *, donate: bool) -> Callable:
    """Compiles `step(state, ...)` of one run for several runs at once: vmap on one device, pmap of vmap on several.

    Args:
      step: the step of one run on one device.
      axes: one entry per argument: 0 if every run has its own, None if all runs share it.
      devices: to split the runs over.
      donate: whether the states may be overwritten.

    Returns:
      `step` for arguments with a leading axis of runs. The states, as argument and as result, and all other results are laid
      out by `shard_members`.
    """
    donated = 0 if donate else ()
    many = jax.vmap(functools.partial(step, axis_name=None), in_axes=axes)
    if len(devices) == 1:
        return jax.jit(many, donate_argnums=donated)
    mapped = jax.pmap(many, MEMBERS, in_axes=axes, devices=devices, donate_argnums=donated)

    def call(state, *arguments):
        sharded = (
            shard_members(value, len(devices)) if axis == 0 else value for value, axis in zip(arguments, axes[1:], strict=True)
        )
        return mapped(state, *sharded)

    return call


def shard_members(tree, devices: int):
    """Splits runs over devices: [shape=(n, ...)] -> [shape=(devices, n / devices, ...)]; unchanged for one device."""
    return tree if devices == 1 else jax.tree.map(lambda leaf: np.reshape(leaf, (devices, -1, *np.shape(leaf)[1:])), tree)


def gather_members(tree, devices: int):
    """Undoes `shard_members`; returns NumPy arrays."""
    tree = jax.device_get(tree)
    return tree if devices == 1 else jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), tree)


def replicate(tree, devices: list):
    """Copies arrays to every device."""
    if len(devices) == 1:
        return jax.device_put(tree, devices[0])
    return _place_on_mesh(tree, devices, MEMBERS, jax.sharding.PartitionSpec())


def place_state(state, devices: list):
    """Puts a state where a step of `compile_train_step` leaves it; otherwise the second step would be compiled anew.

    Several hosts keep theirs in place.
    """
    if len(devices) == 1:
        return jax.device_put(state, devices[0])
    return state if host_count() > 1 else _place_on_mesh(state, devices, AXIS, jax.sharding.PartitionSpec())


def place_members(states, devices: list):
    """Splits the states of several runs over devices (`shard_members`), and puts them where `compile_members` leaves them."""
    if len(devices) == 1:
        return jax.device_put(states, devices[0])
    states = shard_members(states, len(devices))
    return _place_on_mesh(states, devices, MEMBERS, jax.sharding.PartitionSpec(MEMBERS))


def _place_on_mesh(tree, devices: list, axis: str, spec: jax.sharding.PartitionSpec):
    return jax.device_put(tree, jax.sharding.NamedSharding(jax.sharding.Mesh(np.array(devices), (axis,)), spec))


def split_batch(batch: dict, parts: int) -> dict:
    """Splits the first axis: [shape=(B, ...)] -> [shape=(parts, B // parts, ...)]."""
    return {key: np.reshape(value, (parts, -1, *value.shape[1:])) for key, value in batch.items()}


def padded_batch_size(batch_size: int, devices: int) -> int:
    """Returns the smallest multiple of `devices` that is >= `batch_size`; the additional rows are masked out."""
    return -(-batch_size // devices) * devices


def host_count() -> int:
    """Returns the number of hosts of the run."""
    return jax.process_count()


def is_first_host() -> bool:
    """Returns whether this process writes files and prints for all hosts."""
    return jax.process_index() == 0


def is_turn(number: int) -> bool:
    """Returns whether piece `number` of work falls to this host; the hosts take turns."""
    return number % host_count() == jax.process_index()


def host_rows(padded_size: int) -> slice:
    """Returns the rows of a batch of `padded_size` clips that the devices of this host compute."""
    rows = padded_size // host_count()
    return slice(jax.process_index() * rows, (jax.process_index() + 1) * rows)


def allgather_bytes(content: bytes) -> list[bytes]:
    """Returns the content of every host, in the order of the hosts; the length must be the same on all."""
    if host_count() == 1:
        return [content]
    rows = multihost_utils.process_allgather(np.frombuffer(content, np.uint8))
    return [row.tobytes() for row in np.asarray(rows)]


def sum_over_hosts(values: np.ndarray) -> np.ndarray:
    """Sums an array over hosts in float64 [shape of `values`]; bitwise equal on all hosts."""
    values = np.ascontiguousarray(values, np.float64)
    parts = [np.frombuffer(part, np.float64).reshape(values.shape) for part in allgather_bytes(values.tobytes())]
    return sum(parts[1:], start=parts[0])


def barrier() -> None:
    """Waits until all hosts have called it."""
    allgather_bytes(b".")


def check_hosts_agree(value: str, disagreement: str) -> None:
    """Raises an InputError on every host unless all of them pass the same `value`.

    Args:
      value: to compare.
      disagreement: the message, between `host N` and `host 0`.
    """
    digests = allgather_bytes(hashlib.sha256(value.encode()).digest())
    if others := [number for number, digest in enumerate(digests) if digest != digests[0]]:
        raise InputError(f"host {others[0]} {disagreement} host 0")


class StopVote:
    """A vote of all hosts on stopping, with the same result on all of them at the same call.

    The votes are summed on the devices beside the steps, and the sum is read `STEPS_BEHIND` calls later, so that no step waits
    for it. On a single host the result is immediate.
    """

    def __init__(self) -> None:
        self._pending: deque[jax.Array] = deque()
        self._sum: Callable | None = None
        if host_count() > 1:
            self._sum = jax.pmap(functools.partial(jax.lax.psum, axis_name=AXIS), AXIS, out_axes=None)

    def cast(self, wants_stop: bool) -> bool:
        """Casts this host's vote; returns whether any host voted to stop. All hosts must call it equally often."""
        if self._sum is None:
            return wants_stop
        self._pending.append(self._sum(np.full(jax.local_device_count(), wants_stop, np.int32)))
        return len(self._pending) > STEPS_BEHIND and bool(self._pending.popleft() > 0)
