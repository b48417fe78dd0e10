"""The recurrence of a GRU on NVIDIA GPUs: one Pallas kernel per pass, in which weights and state stay on the chip.

Each program of a kernel computes one direction of `ROWS` clips, frame after frame, and loads the inputs of the next frame while
it computes one. Triton, which compiles the kernels, wants powers of two of at least 16, so clips and units are padded with zeros.
Shapes as in `gru_recurrence`.
"""

import jax
import jax.numpy as jnp
from jax.experimental import pallas

try:
    from jax.experimental.pallas import triton
except ImportError:
    triton = None  # type: ignore[assignment]

ROWS = 16
"""Clips per program."""
MOST_UNITS = 64
"""With more units, the three recurrent kernels do not fit into the registers and shared memory of a program."""
OLDEST_COMPUTE_CAPABILITY = 8.0


def suits(units: int) -> bool:
    """Whether the kernel can be built for a layer of this size."""
    return triton is not None and units <= MOST_UNITS


def find_obstacle(device: jax.Device) -> str | None:
    """Says why a GPU can't run the kernel; None if it can."""
    if "rocm" in device.client.platform_version.lower():
        return "the kernel is for NVIDIA GPUs"
    if triton is None:
        return "this version of JAX has no jax.experimental.pallas.triton"
    if float(device.compute_capability) < OLDEST_COMPUTE_CAPABILITY:
        return f"its compute capability is {device.compute_capability}; the kernel needs {OLDEST_COMPUTE_CAPABILITY} or more"
    return None


def states_and_gates(
    projected: jax.Array, kernel: jax.Array, bias: jax.Array, *, with_gates: bool, interpret: bool = False
) -> tuple[jax.Array, ...]:
    """As `gru_scan.states_and_gates`; `interpret` runs the kernel's operations one by one on any hardware."""
    clips, units = projected.shape[2], kernel.shape[1]
    weights = _pad_kernel(kernel), _pad_units(bias, 3)
    size = weights[0].shape[1]
    widths = [size, 4 * size] if with_gates else [size]
    outputs = _call(_forward_kernel, [_pad_clips(_pad_units(projected, 3))], weights, widths, interpret=interpret)
    return tuple(_drop_padding(output, gates, clips, units) for output, gates in zip(outputs, (1, 4), strict=False))


def projected_gradient(
    cotangent: jax.Array, before: jax.Array, gates: jax.Array, kernel: jax.Array, *, interpret: bool = False
) -> jax.Array:
    """As `gru_scan.projected_gradient`; `interpret` as in `states_and_gates`."""
    clips, units = cotangent.shape[2], kernel.shape[1]
    frames = [_pad_clips(_pad_units(array, number)) for array, number in ((cotangent, 1), (before, 1), (gates, 4))]
    kernel = _pad_kernel(kernel)
    transposed = kernel.reshape(*kernel.shape[:2], 3, -1).transpose(0, 2, 3, 1)  # [D, 3, U, U]
    (gradient,) = _call(_backward_kernel, frames, [transposed], [3 * kernel.shape[1]], interpret=interpret)
    return _drop_padding(gradient, 3, clips, units)


def _dot(a, b):
    # Rounding errors of the states add up over the frames.
    return jnp.dot(a, b, precision=jax.lax.Precision.HIGHEST, preferred_element_type=jnp.float32)


def _forward_kernel(projected, kernel, bias, states, gates=None):
    frames, units = projected.shape[0], states.shape[-1]
    kernels = [kernel[0, :, _gate(g, units)] for g in range(3)]
    biases = [bias[0, _gate(g, units)][None] for g in range(3)]

    def load(t):
        return [projected[t, 0, :, _gate(g, units)] for g in range(3)]

    def step(t, carry):
        state, (reset, update, new) = carry
        following = load(jnp.minimum(t + 1, frames - 1))
        reset = jax.nn.sigmoid(reset + _dot(state, kernels[0]) + biases[0])
        update = jax.nn.sigmoid(update + _dot(state, kernels[1]) + biases[1])
        product = _dot(state, kernels[2]) + biases[2]
        new = jnp.tanh(new + reset * product)
        state = (1 - update) * new + update * state
        states[t, 0] = state
        if gates is not None:
            for g, value in enumerate((reset, update, new, product)):
                gates[t, 0, :, _gate(g, units)] = value
        return state, following

    jax.lax.fori_loop(0, frames, step, (jnp.zeros(states.shape[2:], jnp.float32), load(0)))


def _backward_kernel(cotangent, before, gates, kernel, gradient):
    frames, units = cotangent.shape[0], cotangent.shape[-1]
    kernels = [kernel[0, g] for g in range(3)]

    def load(t):
        return cotangent[t, 0], before[t, 0], *(gates[t, 0, :, _gate(g, units)] for g in range(4))

    def step(i, carry):
        state_gradient, (cotangent_t, before_t, reset, update, new, product) = carry
        t = frames - 1 - i
        following = load(jnp.maximum(t - 1, 0))
        state_gradient = state_gradient + cotangent_t
        new_gradient = state_gradient * (1 - update) * (1 - new * new)
        update_gradient = state_gradient * (before_t - new) * update * (1 - update)
        reset_gradient = new_gradient * product * reset * (1 - reset)
        for g, value in enumerate((reset_gradient, update_gradient, new_gradient)):
            gradient[t, 0, :, _gate(g, units)] = value
        state_gradient = state_gradient * update + _dot(reset_gradient, kernels[0])
        state_gradient += _dot(update_gradient, kernels[1]) + _dot(new_gradient * reset, kernels[2])
        return state_gradient, following

    jax.lax.fori_loop(0, frames, step, (jnp.zeros(cotangent.shape[2:], jnp.float32), load(frames - 1)))


def _gate(number, units):
    """The slice of a gate."""
    return pallas.ds(number * units, units)


def _call(kernel, frames, weights, widths, *, interpret):
    """Calls a kernel for both directions and all clips.

    Args:
      kernel: the kernel's body.
      frames: inputs [shape=(T, D, B, ...)], cut into directions and `ROWS` clips.
      weights: inputs [shape=(D, ...)], cut into directions.
      widths: sizes of the last axis of the outputs [shape=(T, D, B, width)].
      interpret: see `states_and_gates`.
    """
    length, directions, clips, _ = frames[0].shape

    def frames_block(width):
        return pallas.BlockSpec((length, 1, ROWS, width), lambda direction, rows: (0, direction, rows, 0))

    def weights_block(array):
        return pallas.BlockSpec((1, *array.shape[1:]), lambda direction, rows: (direction, *[0] * (array.ndim - 1)))

    return pallas.pallas_call(
        kernel,
        grid=(directions, clips // ROWS),
        in_specs=[*(frames_block(array.shape[-1]) for array in frames), *map(weights_block, weights)],
        out_specs=[frames_block(width) for width in widths],
        out_shape=[jax.ShapeDtypeStruct((length, directions, clips, width), jnp.float32) for width in widths],
        interpret=interpret,
        compiler_params=None if interpret else triton.CompilerParams(num_warps=4, num_stages=1),
    )(*frames, *weights)


def _pad_clips(array):
    """[shape=(T, D, B, ...)] -> [shape=(T, D, a multiple of ROWS, ...)]."""
    return jnp.pad(array, ((0, 0), (0, 0), (0, -array.shape[2] % ROWS), (0, 0)))


def _pad_units(array, gates):
    """Pads the units of each gate, on the last axis, to a power of two of at least 16. Padded units stay zero."""
    array = array.reshape(*array.shape[:-1], gates, -1)
    units = array.shape[-1]
    missing = max(16, 1 << (units - 1).bit_length()) - units
    array = jnp.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, missing)])
    return array.reshape(*array.shape[:-2], -1)


def _pad_kernel(kernel):
    """Pads the units of a recurrent kernel [shape=(D, U, 3 * U)] on both axes."""
    return _pad_units(_pad_units(kernel, 3).swapaxes(1, 2), 1).swapaxes(1, 2)


def _drop_padding(array, gates, clips, units):
    """Undoes `_pad_clips` and `_pad_units`."""
    array = array[:, :, :clips].reshape(*array.shape[:2], clips, gates, -1)
    return array[..., :units].reshape(*array.shape[:3], gates * units)
