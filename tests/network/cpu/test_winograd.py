"""Winograd's convolution against exact arithmetic and XLA: values, gradients, precision and memory."""

import fractions
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mfl_jax.network.cpu import winograd


def exact(matrix):
    return [[fractions.Fraction(weight).limit_denominator(100) for weight in row] for row in matrix]


def test_the_matrices_filter_exactly():
    """Output frame o is the sum over taps r of tap r times input frame o + r, checked in fractions product by product."""
    inputs, taps, outputs = (exact(m) for m in (winograd.INPUT_TO_POINTS, winograd.TAPS_TO_POINTS, winograd.POINTS_TO_OUTPUT))
    for output, tap, frame in itertools.product(range(4), range(3), range(6)):
        product = sum(outputs[output][point] * taps[point][tap] * inputs[point][frame] for point in range(6))
        assert product == (frame == output + tap)


def arrays(*shapes, seed=0):
    rng = np.random.default_rng(seed)
    return [jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in shapes]


def stock(x, kernel):
    dimensions = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=dimensions, precision="highest")


@functools.cache
def stock_results(size):
    """Input, kernel and cotangent of a size with XLA's value and kernel gradient."""
    clips, frames, bins, inputs, outputs = size
    x, kernel, cotangent = arrays((clips, frames, bins, inputs), (3, 3, inputs, outputs), (clips, frames, bins, outputs))
    value, gradients_of = jax.vjp(stock, x, kernel)
    return x, kernel, cotangent, value, gradients_of(cotangent)[1]


def assert_near(ours, expected, tolerance=1e-5):
    assert ours.shape == expected.shape and ours.dtype == expected.dtype
    np.testing.assert_allclose(ours, expected, rtol=0, atol=tolerance * np.abs(expected).max())


SIZES = [
    (2, 7, 5, 3, 4),
    (1, 1, 1, 1, 2),
    (3, 20, 2, 4, 4),
    (2, 9, 8, 1, 12),
    (3, 50, 3, 5, 6),
    (6, 4, 4, 2, 3),
    (5, 13, 1, 2, 2),
]


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("piece_bytes", [1, pytest.param(1000, marks=pytest.mark.ci_only), 4000, 12 << 20])
def test_equals_the_stock_convolution_in_pieces_of_any_size(size, piece_bytes, monkeypatch):
    """Pieces of one tile, a stretch of a clip, several clips, and the whole batch."""
    monkeypatch.setattr(winograd, "PIECE_BYTES", piece_bytes)
    x, kernel, cotangent, value, gradient = stock_results(size)
    assert_near(winograd.convolve(x, kernel), value)
    assert_near(winograd.kernel_gradient(x, cotangent), gradient)


def test_pieces_are_whole_clips_or_stretches_in_whole_tiles():
    def piece(clips, frames, most_frames):
        x = jax.ShapeDtypeStruct((clips, frames, 1, winograd.PIECE_BYTES // (4 * most_frames) - 1), jnp.float32)
        return winograd._piece_size(x, 1)

    assert piece(16, 500, 10**6) == (16, 500)
    assert piece(16, 500, 1500) == (2, 500)  # 16 is not divisible by 3
    assert piece(16, 500, 500) == (1, 500)
    assert piece(16, 502, 600) == (1, 504)  # the last tile is half empty
    assert piece(16, 1000, 700) == (1, 500)
    assert piece(7, 20, 100) == (1, 20)


@pytest.fixture(scope="module")
def wide():
    """The network's widest layer for one clip, with value and gradient in double precision."""
    x, kernel, cotangent = arrays((1, 500, 4, 128), (3, 3, 128, 128), (1, 500, 4, 128))
    taps = np.pad(np.asarray(x, np.float64), ((0, 0), (1, 1), (1, 1), (0, 0)))
    tap_inputs = np.stack([taps[:, t : t + 500, f : f + 4] for t in range(3) for f in range(3)], axis=-2).reshape(-1, 9 * 128)
    value = (tap_inputs @ np.asarray(kernel, np.float64).reshape(-1, 128)).reshape(x.shape)
    gradient = (tap_inputs.T @ np.asarray(cotangent, np.float64).reshape(-1, 128)).reshape(kernel.shape)
    return (x, kernel, cotangent), (value, gradient)


def test_precision_of_value_and_gradient(wide):
    (x, kernel, cotangent), (value, gradient) = wide
    for ours, expected in ((winograd.convolve(x, kernel), value), (winograd.kernel_gradient(x, cotangent), gradient)):
        np.testing.assert_allclose(ours, expected, rtol=0, atol=5e-6 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("inputs", "outputs", "dtype", "expected"),
    [(32, 40, "float32", True), (31, 40, "float32", False), (40, 31, "float32", False), (32, 40, "bfloat16", False)],
)
def test_suits_wide_float32_layers_only(inputs, outputs, dtype, expected):
    x, kernel = (jax.ShapeDtypeStruct(shape, dtype) for shape in ((1, 8, 4, inputs), (3, 3, inputs, outputs)))
    assert winograd.suits(x, kernel) is expected


def test_does_not_suit_a_symbolic_number_of_clips():
    (clips,) = jax.export.symbolic_shape("clips")
    x, kernel = (jax.ShapeDtypeStruct(shape, "float32") for shape in ((clips, 8, 4, 32), (3, 3, 32, 32)))
    assert winograd.suits(x, kernel) is False


def test_memory_for_a_long_clip_is_its_arrays_and_one_piece():
    """The six points of the whole clip would take one and a half times its input and output."""
    x, kernel = jnp.ones((1, 20_000, 4, 32)), jnp.ones((3, 3, 32, 32))
    compiled = jax.jit(winograd.convolve).lower(x, kernel).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 2.5 * x.nbytes + 3 * winograd.PIECE_BYTES
