"""The recurrent layer against its equations, step by step, and against PyTorch's (cuDNN's form of the GRU)."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mfl_jax.frame_mask import frame_mask
from mfl_jax.network.bigru import BiGRU

# Clips, frames, inputs, units: all different, to detect swapped axes; one frame; one clip; the paper's units.
SIZES = [(3, 11, 5, 4), (4, 1, 5, 3), (1, 9, 6, 2), (2, 40, 24, 32)]


def layer_and_input(size, seed=0):
    """A layer with random parameters as a compiled function, the parameters, and an input."""
    clips, frames, inputs, units = size
    layer, shapes = compiled_layer(inputs, units)
    rng = np.random.default_rng(seed)
    params = {}
    for name, shape in shapes.items():
        deviation = 0.3 if name.endswith("bias") else 1 / np.sqrt(shape[1])
        params[name] = (deviation * rng.standard_normal(shape)).astype(np.float32)
    x = rng.standard_normal((clips, frames, inputs)).astype(np.float32)
    return layer, params, x


@functools.cache
def compiled_layer(inputs, units):
    """The layer as a compiled function, and the shapes of its parameters; orthogonal initial values would be slow to compile."""
    graphdef, params = nnx.split(nnx.eval_shape(lambda: BiGRU(inputs, units, rngs=nnx.Rngs(params=0))))
    shapes = {name: value.shape for name, value in nnx.to_pure_dict(params).items()}

    @jax.jit
    def layer(params, x, mask=None):
        return nnx.merge(graphdef, params)(x, jnp.ones(x.shape[:2], bool) if mask is None else mask)

    return layer, shapes


def states_by_equations(params, x):
    """Loops over directions, clips and frames in float64."""

    def sigmoid(a):
        return 1 / (1 + np.exp(-a))

    clips, frames, _ = x.shape
    units = params["recurrent_bias"].shape[1] // 3
    states = np.zeros((clips, frames, 2 * units))
    for direction, order in enumerate((range(frames), reversed(range(frames)))):
        order = list(order)
        w, u, b, c = (
            np.split(params[name][direction].astype(np.float64), 3, axis=-1)
            for name in ("input_kernel", "recurrent_kernel", "input_bias", "recurrent_bias")
        )
        for clip in range(clips):
            h = np.zeros(units)
            for t in order:
                x_t = x[clip, t].astype(np.float64)
                reset = sigmoid(x_t @ w[0] + b[0] + h @ u[0] + c[0])
                update = sigmoid(x_t @ w[1] + b[1] + h @ u[1] + c[1])
                new = np.tanh(x_t @ w[2] + b[2] + reset * (h @ u[2] + c[2]))
                h = (1 - update) * new + update * h
                states[clip, t, direction * units : (direction + 1) * units] = h
    return states


def torch_layer(peer, params):
    """PyTorch's layer in float64 with our parameters."""
    _, inputs, gates = params["input_kernel"].shape
    layer = peer.nn.GRU(inputs, gates // 3, bidirectional=True, batch_first=True).double()
    return peer.copy_into(layer, params)


def assert_close(ours, expected, label):
    """Asserts equality within 1e-5 of the largest absolute value."""
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-5 * np.abs(expected).max(), err_msg=label)


@pytest.mark.parametrize("size", SIZES)
def test_output_follows_the_equations(size):
    layer, params, x = layer_and_input(size)
    expected = states_by_equations(params, x)
    output = layer(params, x)
    assert output.shape == expected.shape == (*size[:2], 2 * size[3])
    assert_close(output, expected, "states")


@pytest.mark.parametrize("size", SIZES)
def test_output_and_gradients_equal_torch(peer, size):
    layer, params, x = layer_and_input(size, seed=1)
    output, gradients_of = jax.vjp(layer, params, x)
    weights = np.random.default_rng(2).standard_normal(output.shape).astype(np.float32)
    gradients, gradient_of_input = gradients_of(jnp.asarray(weights))

    reference = torch_layer(peer, params)
    x = peer.torch.tensor(x, dtype=peer.torch.float64, requires_grad=True)
    expected, _ = reference(x)
    (expected * peer.torch.tensor(weights)).sum().backward()

    assert_close(output, expected.detach().numpy(), "states")
    assert_close(gradient_of_input, x.grad.numpy(), "gradient of the input")
    expected = peer.read_arrays(reference, "gradients")
    assert sorted(gradients) == sorted(expected)
    for name, gradient in gradients.items():
        assert_close(gradient, expected[name], f"gradient of {name}")


def test_one_frame_gives_the_recurrent_kernel_no_gradient():
    # The state before the only frame is zero; the recurrent bias still acts.
    layer, params, x = layer_and_input((2, 1, 5, 3))
    gradients = jax.grad(lambda params: jnp.sum(layer(params, x)))(params)
    assert not np.any(gradients["recurrent_kernel"])
    assert np.all(gradients["recurrent_bias"])


def test_a_clip_alone_equals_the_clip_in_a_batch():
    layer, params, x = layer_and_input((3, 11, 5, 4))
    for clip in range(3):
        np.testing.assert_allclose(layer(params, x[clip : clip + 1])[0], layer(params, x)[clip], rtol=0, atol=1e-6)


def test_each_direction_depends_on_the_frames_read_so_far():
    """Changing a frame changes the forward states from that frame on, and the backward states up to it."""
    layer, params, x = layer_and_input((1, 9, 6, 2))
    changed = x.copy()
    changed[:, 4] += 1.0
    # Exact: both results come from the same compiled program, and unaffected states have the same inputs.
    differs = np.any(np.asarray(layer(params, x) != layer(params, changed)).reshape(9, 2, 2), axis=-1)
    assert differs[:, 0].tolist() == [t >= 4 for t in range(9)]
    assert differs[:, 1].tolist() == [t <= 4 for t in range(9)]


def test_recurrent_matrices_start_orthogonal_and_different():
    units = 4
    kernel = np.asarray(BiGRU(3, units, rngs=nnx.Rngs(params=0)).recurrent_kernel[...])
    matrices = [kernel[direction][:, gate * units : (gate + 1) * units] for direction in range(2) for gate in range(3)]
    for number, matrix in enumerate(matrices):
        np.testing.assert_allclose(matrix.T @ matrix, np.eye(units), atol=1e-5)
        assert all(np.abs(matrix - other).max() > 0.1 for other in matrices[:number])


@pytest.mark.parametrize("size", SIZES[:1] + SIZES[3:])
def test_the_backward_direction_starts_at_the_last_valid_frame(size):
    layer, params, x = layer_and_input(size)
    clips, frames = x.shape[:2]
    valid_frames = np.resize([frames, 1, frames // 2, 0], clips)
    mask = frame_mask(valid_frames, frames)
    states = layer(params, np.where(mask[..., None], x, 100), mask)
    for clip, end in enumerate(valid_frames):
        assert_close(
            states[clip, :end], states_by_equations(params, x[clip : clip + 1, :end])[0], f"{end} frames"
        ) if end else None
    assert np.isfinite(states).all()

    def total(x):
        return jnp.sum(jnp.where(mask[..., None], layer(params, x, mask), 0))

    gradient = np.asarray(jax.grad(total)(x))
    assert np.isfinite(gradient).all() and not gradient[~mask].any() and gradient[mask].any()
