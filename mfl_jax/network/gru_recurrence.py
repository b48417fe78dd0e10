"""The recurrence of a bidirectional GRU, from the input products of all frames to the states, with its gradients.

The forward pass keeps the gates, so that the backward pass needs one product per frame. The gradient of the recurrent kernel is a
single product of all frames. Both passes have two forms: a scan over the frames, and one kernel per pass on NVIDIA GPUs, where a
scan spends most of its time on starting some ten kernels per frame.

Shapes: T frames, D directions (2), B clips, U units. Both directions read the frames in the order of the arrays. The gates are in
the order reset, update, new; see `bigru.BiGRU` for the equations.
"""

import contextlib
import contextvars
import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp

from mfl_jax.errors import warn
from mfl_jax.network import gru_kernel, gru_scan

GPU_UNROLL = 8
"""Frames per iteration of the scan on GPUs that can't run the kernel. An H100 takes 1.4 times as long with one frame. CPUs gain
nothing from more, and a TPU's program would move more bytes.
"""

_portable = contextvars.ContextVar("portable", default=False)


@contextlib.contextmanager
def portable() -> Iterator[None]:
    """Programs traced in this context contain no kernels of their own, so that any version of XLA can run them."""
    token = _portable.set(True)
    try:
        yield
    finally:
        _portable.reset(token)


@jax.custom_vjp
def recurrence(projected: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
    """Computes the states of all frames, starting from zero.

    Args:
      projected: input products with their bias, float32 [shape=(T, D, B, 3 * U)].
      kernel: recurrent kernel, float32 [shape=(D, U, 3 * U)].
      bias: recurrent bias, float32 [shape=(D, 3 * U)].

    Returns:
      float32 [shape=(T, D, B, U)].
    """
    (states,) = _states_and_gates(projected, kernel, bias, with_gates=False)
    return states


def _states_and_gates(projected, kernel, bias, *, with_gates):
    scan = functools.partial(gru_scan.states_and_gates, with_gates=with_gates)
    fused = functools.partial(gru_kernel.states_and_gates, with_gates=with_gates)
    return _on_each_platform(scan, fused, units=kernel.shape[1])(projected, kernel, bias)


def _on_each_platform(scan, fused, *, units):
    forms = {"cpu": scan, "tpu": scan, "default": functools.partial(scan, unroll=GPU_UNROLL)}
    if not _portable.get() and _kernels_run_here() and gru_kernel.suits(units):
        forms["cuda"] = fused
    return lambda *arrays: jax.lax.platform_dependent(*arrays, **forms)


@functools.cache
def _kernels_run_here() -> bool:
    """Whether this machine's GPU, if it has one, can run the kernel; says once why it can't."""
    if jax.default_backend() != "gpu":
        return True  # programs may still be compiled for a GPU elsewhere
    obstacle = gru_kernel.find_obstacle(jax.local_devices()[0])
    if obstacle:
        warn(f"the recurrent layer uses a slower form on this GPU: {obstacle}")
    return not obstacle


def _forward(projected, kernel, bias):
    states, gates = _states_and_gates(projected, kernel, bias, with_gates=True)
    return states, (states, gates, kernel)


def _backward(residuals, cotangent):
    states, gates, kernel = residuals
    units = kernel.shape[1]
    before = jnp.concatenate([jnp.zeros_like(states[:1]), states[:-1]])
    backward = _on_each_platform(gru_scan.projected_gradient, gru_kernel.projected_gradient, units=units)
    projected = backward(cotangent, before, gates, kernel)
    reset = gates[..., :units]
    recurrent = jnp.concatenate([projected[..., : 2 * units], projected[..., 2 * units :] * reset], axis=-1)
    kernel_gradient = jnp.einsum("tdbu,tdbg->dug", before, recurrent, precision=jax.lax.Precision.HIGHEST)
    return projected, kernel_gradient, recurrent.sum((0, 2))


recurrence.defvjp(_forward, _backward)
