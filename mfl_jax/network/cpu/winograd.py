"""The 3x3 convolution with half the multiplications, for CPUs: Winograd's minimal filtering F(4, 3) along the frames.

Six frames of input and the four of output that they decide (a tile) are taken to six points, where a tile needs 6 products in
place of 12 (Lavin and Gray 2016, arXiv:1509.09308); at each point a convolution with three taps along the bins is left. Work
goes piece by piece, small enough that what lies between the steps stays in the cache: otherwise nothing would be won. Float32
results differ from those of a direct convolution by some 1e-6 of the largest value; bfloat16 has too few digits for this.
"""

import operator
from collections.abc import Iterable, Sequence

import jax
import jax.numpy as jnp

TILE = 4
"""Frames of output in a tile."""
INPUT_TO_POINTS = (
    (4, 0, -5, 0, 1, 0),
    (0, -4, -4, 1, 1, 0),
    (0, 4, -4, -1, 1, 0),
    (0, -2, -1, 2, 1, 0),
    (0, 2, -1, -2, 1, 0),
    (0, 4, 0, -5, 0, 1),
)
"""A row a point (0, 1, -1, 2, -2 and infinity), a column a frame of the tile's input."""
TAPS_TO_POINTS = (
    (1 / 4, 0, 0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0, 0, 1),
)
"""A row a point, a column a tap of the kernel."""
POINTS_TO_OUTPUT = (
    (1, 1, 1, 1, 1, 0),
    (0, 1, -1, 2, -2, 0),
    (0, 1, 1, 4, 4, 0),
    (0, 1, -1, 8, -8, 1),
)
"""A row a frame of the tile's output, a column a point."""
PIECE_BYTES = 12 << 20
"""Of input and output together that are worked on at once."""


def suits(x: jax.ShapeDtypeStruct, outputs: int) -> bool:
    """Whether a CPU is faster this way, and precise enough: in float32, from 32 channels on."""
    return x.dtype == jnp.float32 and min(x.shape[-1], outputs) >= 32


def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Cross-correlates with zero padding: [shape=(B, T, F, I)], [shape=(3, 3, I, O)] -> [shape=(B, T, F, O)]."""
    batch, time, bins, _ = x.shape
    outputs = kernel.shape[-1]
    clips, frames = _piece(x, outputs)
    matrices = [_bins_matrix(taps, bins) for taps in _combine(TAPS_TO_POINTS, kernel)]

    def convolve_piece(piece):
        products = map(_convolve_bins, _at_points(piece, frames), matrices)
        tiles = jnp.stack(_combine(POINTS_TO_OUTPUT, products), axis=1)  # [tiles, TILE, F, O]
        return tiles.reshape(clips, frames, bins, outputs)

    y = jax.lax.map(convolve_piece, _input_pieces(x, clips, frames))
    return y.reshape(batch, -1, bins, outputs)[:, :time]


def kernel_gradient(x: jax.Array, cotangent: jax.Array) -> jax.Array:
    """The gradient of `convolve` with respect to its kernel [shape=(3, 3, I, O)], x and the gradient of its result given."""
    bins, outputs = cotangent.shape[2:]
    clips, frames = _piece(x, outputs)
    cotangent = jnp.pad(cotangent, ((0, 0), (0, -x.shape[1] % frames), (0, 0), (0, 0)))
    points_of_output = list(zip(*POINTS_TO_OUTPUT, strict=True))

    def add_piece(gradients, pieces):
        inputs, cotangent = pieces
        tiles = cotangent.reshape(-1, TILE, bins, outputs)
        of_products = _combine(points_of_output, [tiles[:, frame] for frame in range(TILE)])
        return list(map(operator.add, gradients, map(_taps_gradient, _at_points(inputs, frames), of_products))), None

    zeros = [jnp.zeros((3, x.shape[-1], outputs), x.dtype)] * len(points_of_output)
    pieces = _input_pieces(x, clips, frames), cotangent.reshape(-1, clips, frames, bins, outputs)
    of_points, _ = jax.lax.scan(add_piece, zeros, pieces)
    return jnp.stack(_combine(zip(*TAPS_TO_POINTS, strict=True), of_points))


def _combine(matrix: Iterable[Sequence[float]], parts: Iterable[jax.Array]) -> list[jax.Array]:
    """The products of a matrix with a column of arrays; nothing is spent on its zeros and ones."""
    parts = list(parts)
    signed = {1: operator.pos, -1: operator.neg}
    return [sum(signed[w](part) if abs(w) == 1 else w * part for w, part in zip(row, parts, strict=True) if w) for row in matrix]


def _piece(x, outputs) -> tuple[int, int]:
    """Clips and frames that are worked on at once: several whole clips, one, or a stretch of one, in whole tiles."""
    batch, time, bins, inputs = x.shape
    most_frames = max(1, PIECE_BYTES // (bins * (inputs + outputs) * x.dtype.itemsize))
    stretches = -(-time // most_frames)
    frames = -(-time // stretches // TILE) * TILE
    clips = max(n for n in range(1, batch + 1) if batch % n == 0 and (n == 1 or n * frames <= most_frames))
    return clips, frames


def _input_pieces(x, clips, frames):
    """[shape=(B, T, F, I)] -> [shape=(pieces, clips, ..., F, I)]: whole clips, or stretches with the frames on both sides."""
    time, bins, inputs = x.shape[1:]
    if time > frames:
        padded = jnp.pad(x, ((0, 0), (1, 1 + -time % frames), (0, 0), (0, 0)))
        x = jnp.stack([padded[:, start : start + frames + 2] for start in range(0, time, frames)], axis=1)
    return x.reshape(-1, clips, x.shape[-3], bins, inputs)


def _at_points(piece, frames):
    """The tiles of a piece of input at the six points: six times [shape=(tiles, F, I)]."""
    given, bins, inputs = piece.shape[1:]
    if given <= frames:  # a whole clip: padding it here spares a copy of all
        piece = jnp.pad(piece, ((0, 0), (1, 1 + frames - given), (0, 0), (0, 0)))
    of_tiles = (piece[:, frame : frame + frames : TILE].reshape(-1, bins, inputs) for frame in range(TILE + 2))
    return _combine(INPUT_TO_POINTS, of_tiles)


def _bins_matrix(taps, bins):
    """Three taps [shape=(3, I, O)] as what convolves `bins` bins fastest: for few, one matrix [shape=(F * I, F * O)]."""
    if bins > 3:
        return taps
    none = jnp.zeros_like(taps[0])
    return jnp.block([[taps[i - o + 1] if abs(i - o) < 2 else none for o in range(bins)] for i in range(bins)])


def _convolve_bins(x, matrix):
    """[shape=(N, F, I)] -> [shape=(N, F, O)]; `matrix` is that of `_bins_matrix`."""
    if matrix.ndim == 3:
        return jax.lax.conv_general_dilated(x, matrix, (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC"))
    return (x.reshape(len(x), -1) @ matrix).reshape(*x.shape[:2], -1)


def _taps_gradient(x, cotangent):
    """The gradient with respect to the three taps, as a matrix product each: XLA's own takes a hundred times as long."""
    padded = jnp.pad(x, ((0, 0), (1, 1), (0, 0)))
    seen = (padded[:, tap : tap + x.shape[1]].reshape(-1, x.shape[-1]) for tap in range(3))
    return jnp.stack([tap.T @ cotangent.reshape(-1, cotangent.shape[-1]) for tap in seen])
