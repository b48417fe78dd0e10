"""3x3 convolution on CPUs with half the multiplications: Winograd's minimal filtering F(4, 3) along the frames.

A tile is four frames of output and the six frames of input that they depend on. Transformed to six points, a tile needs 6
products instead of 12 (Lavin and Gray 2016, arXiv:1509.09308); each point leaves a convolution with three taps along the bins.
Work is cut into pieces whose intermediate arrays fit the cache; without that there is no gain. Float32 results differ from a
direct convolution by about 1e-6 of the largest value. bfloat16 is too coarse for the transforms.
"""

import functools
import operator
from collections.abc import Callable, Iterable, Sequence

import jax
import jax.numpy as jnp

TILE = 4
"""Output frames of a tile."""
INPUT_TO_POINTS = (
    (4, 0, -5, 0, 1, 0),
    (0, -4, -4, 1, 1, 0),
    (0, 4, -4, -1, 1, 0),
    (0, -2, -1, 2, 1, 0),
    (0, 2, -1, -2, 1, 0),
    (0, 4, 0, -5, 0, 1),
)
"""One row per point (0, 1, -1, 2, -2, infinity), one column per input frame of the tile."""
TAPS_TO_POINTS = (
    (1 / 4, 0, 0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0, 0, 1),
)
"""One row per point, one column per tap of the kernel."""
POINTS_TO_OUTPUT = (
    (1, 1, 1, 1, 1, 0),
    (0, 1, -1, 2, -2, 0),
    (0, 1, 1, 4, 4, 0),
    (0, 1, -1, 8, -8, 1),
)
"""One row per output frame of the tile, one column per point."""
PIECE_BYTES = 12 << 20
"""Bytes of input and output of a piece."""


def suits(x: jax.Array, other: jax.Array) -> bool:
    """Whether this form is precise enough and faster: float32, at least 32 channels, and a known number of clips.

    Args:
      x: input of the convolution.
      other: its kernel or the gradient of its output; the last axis is the output channels.
    """
    # The number of clips can be symbolic in exported programs.
    return x.dtype == jnp.float32 and min(x.shape[-1], other.shape[-1]) >= 32 and isinstance(x.shape[0], int)


def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Cross-correlates with zero padding: [shape=(B, T, F, I)], [shape=(3, 3, I, O)] -> [shape=(B, T, F, O)]."""
    batch, time, bins, _ = x.shape
    outputs = kernel.shape[-1]
    clips, frames = _piece_size(x, outputs)
    matrices = [_bins_matrix(taps, bins) for taps in _combine(TAPS_TO_POINTS, kernel)]

    def convolve_piece(piece):
        products = map(_convolve_bins, _at_points(piece, frames), matrices)
        tiles = jnp.stack(_combine(POINTS_TO_OUTPUT, products), axis=1)  # [tiles, TILE, F, O]
        return tiles.reshape(clips, frames, bins, outputs)

    y = jax.lax.map(convolve_piece, _input_pieces(x, clips, frames))
    return y.reshape(batch, -1, bins, outputs)[:, :time]


def kernel_gradient(x: jax.Array, cotangent: jax.Array) -> jax.Array:
    """The gradient of `convolve` with respect to its kernel.

    Args:
      x: input [shape=(B, T, F, I)].
      cotangent: gradient of the output [shape=(B, T, F, O)].

    Returns:
      [shape=(3, 3, I, O)].
    """
    bins, outputs = cotangent.shape[2:]
    clips, frames = _piece_size(x, outputs)
    cotangent = jnp.pad(cotangent, ((0, 0), (0, -x.shape[1] % frames), (0, 0), (0, 0)))
    output_to_points = list(zip(*POINTS_TO_OUTPUT, strict=True))

    def add_piece(gradients, pieces):
        inputs, cotangent = pieces
        tiles = cotangent.reshape(-1, TILE, bins, outputs)
        product_gradients = _combine(output_to_points, [tiles[:, frame] for frame in range(TILE)])
        return list(map(operator.add, gradients, map(_taps_gradient, _at_points(inputs, frames), product_gradients))), None

    zeros = [jnp.zeros((3, x.shape[-1], outputs), x.dtype)] * len(output_to_points)
    pieces = _input_pieces(x, clips, frames), cotangent.reshape(-1, clips, frames, bins, outputs)
    point_gradients, _ = jax.lax.scan(add_piece, zeros, pieces)
    return jnp.stack(_combine(zip(*TAPS_TO_POINTS, strict=True), point_gradients))


def _combine(matrix: Iterable[Sequence[float]], parts: Iterable[jax.Array]) -> list[jax.Array]:
    """Multiplies a matrix with a column of arrays, skipping zeros and multiplications by one."""
    parts = list(parts)
    return [_weighted_sum(row, parts) for row in matrix]


def _weighted_sum(weights: Sequence[float], parts: Sequence[jax.Array]) -> jax.Array:
    signed: dict[float, Callable[[jax.Array], jax.Array]] = {1: operator.pos, -1: operator.neg}
    terms = [signed[w](part) if w in signed else w * part for w, part in zip(weights, parts, strict=True) if w]
    return functools.reduce(operator.add, terms)


def _piece_size(x, outputs) -> tuple[int, int]:
    """Clips and frames of a piece: several whole clips, one clip, or a stretch of one clip, in whole tiles."""
    batch, time, bins, inputs = x.shape
    most_frames = max(1, PIECE_BYTES // (bins * (inputs + outputs) * x.dtype.itemsize))
    stretches = -(-time // most_frames)
    frames = -(-time // stretches // TILE) * TILE
    clips = max(n for n in range(1, batch + 1) if batch % n == 0 and (n == 1 or n * frames <= most_frames))
    return clips, frames


def _input_pieces(x, clips, frames):
    """[shape=(B, T, F, I)] -> [shape=(pieces, clips, ..., F, I)]: whole clips, or stretches with one more frame on each side."""
    time, bins, inputs = x.shape[1:]
    if time > frames:
        padded = jnp.pad(x, ((0, 0), (1, 1 + -time % frames), (0, 0), (0, 0)))
        x = jnp.stack([padded[:, start : start + frames + 2] for start in range(0, time, frames)], axis=1)
    return x.reshape(-1, clips, x.shape[-3], bins, inputs)


def _at_points(piece, frames):
    """Transforms the input tiles of a piece to the six points: six arrays [shape=(tiles, F, I)]."""
    length, bins, inputs = piece.shape[1:]
    if length <= frames:  # whole clips, which are padded here to avoid a padded copy of all input
        piece = jnp.pad(piece, ((0, 0), (1, 1 + frames - length), (0, 0), (0, 0)))
    tile_frames = (piece[:, frame : frame + frames : TILE].reshape(-1, bins, inputs) for frame in range(TILE + 2))
    return _combine(INPUT_TO_POINTS, tile_frames)


def _bins_matrix(taps, bins):
    """Three taps [shape=(3, I, O)] for `_convolve_bins`; as one matrix [shape=(F * I, F * O)] where that is faster."""
    if bins > 3:
        return taps
    zero = jnp.zeros_like(taps[0])
    return jnp.block([[taps[i - o + 1] if abs(i - o) < 2 else zero for o in range(bins)] for i in range(bins)])


def _convolve_bins(x, matrix):
    """[shape=(N, F, I)] -> [shape=(N, F, O)]; `matrix` comes from `_bins_matrix`."""
    if matrix.ndim == 3:
        return jax.lax.conv_general_dilated(x, matrix, (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC"))
    return (x.reshape(len(x), -1) @ matrix).reshape(*x.shape[:2], -1)


def _taps_gradient(x, cotangent):
    """The gradient with respect to the three taps, one matrix product each; XLA's own takes a hundred times as long."""
    padded = jnp.pad(x, ((0, 0), (1, 1), (0, 0)))
    tap_inputs = (padded[:, tap : tap + x.shape[1]].reshape(-1, x.shape[-1]) for tap in range(3))
    return jnp.stack([inputs.T @ cotangent.reshape(-1, cotangent.shape[-1]) for inputs in tap_inputs])
