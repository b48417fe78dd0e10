"""Shuffles the clips of an epoch and reads them in batches of one shape, padded and masked."""

from typing import TYPE_CHECKING

import numpy as np

from mfl_jax.data.prepared_dataset import Clips

if TYPE_CHECKING:
    import grain

READERS = 2
"""Threads that read ahead, one batch each."""


def shuffle_indices(indices: np.ndarray, *, seed: int, epoch: int) -> np.ndarray:
    """Permutes the clip indices of an epoch; the order depends only on the seed and the epoch."""
    return np.random.default_rng([seed, epoch]).permutation(indices)


def draw_indices(indices: np.ndarray, probabilities: np.ndarray, *, seed: int, epoch: int) -> np.ndarray:
    """Draws n indices for an epoch of n clips, in random order.

    Index i appears floor(n p_i) times or once more. This is systematic sampling, which varies less than independent draws. The
    result depends only on the arguments.
    """
    random = np.random.default_rng([seed, epoch, 2])
    order = random.permutation(len(indices))
    ends = np.cumsum(probabilities[order] / probabilities.sum()) * len(indices)
    places = np.searchsorted(ends, np.arange(len(indices)) + random.random(), side="right")
    return random.permutation(indices[order[np.minimum(places, len(indices) - 1)]])


def order_epoch(indices: np.ndarray, probabilities: np.ndarray | None, *, seed: int, epoch: int) -> np.ndarray:
    """Orders the clips of an epoch: `draw_indices` with probabilities, otherwise `shuffle_indices`."""
    if probabilities is None:
        return shuffle_indices(indices, seed=seed, epoch=epoch)
    return draw_indices(indices, probabilities, seed=seed, epoch=epoch)


def split_into_batches(indices: np.ndarray, batch_size: int) -> list[np.ndarray]:
    """Splits indices into consecutive runs of `batch_size`; the last one may be shorter."""
    return [indices[start : start + batch_size] for start in range(0, len(indices), batch_size)]


def read_batches(
    clips: Clips, indices: np.ndarray, batch_size: int, *, rows: slice | None = None, offsets: np.ndarray | None = None
) -> "grain.DatasetIterator[dict[str, np.ndarray]]":
    """Yields the clips at the given indices, in that order, as batches of one shape.

    Each index is read once. Missing rows of a batch are zeros, with False in all masks. The next batches are read while one is
    in use.

    Args:
      clips: the split.
      indices: int [shape=(n,)], the clips to read.
      batch_size: clips per batch.
      rows: rows of each batch to read and yield: the share of one host, or more rows than a batch has clips, so that it divides
        evenly among devices. Default: rows 0 to `batch_size`.
      offsets: from `random_crops.draw_offsets`, int [shape=(n,)]. Default: clips as they were cut.

    Yields:
      `log_mel` float32 [shape=(B, T, M)], `events` bool [shape=(B, T, E)], `scene` int32 [shape=(B,)],
      `valid_frames` int32 [shape=(B,)], `scene_mask`, `event_mask` and `clip_mask` bool [shape=(B,)], with B the number of rows.
    """
    import grain  # imported here, because clips that stay on the devices need none of it

    rows = rows or slice(0, batch_size)
    size = rows.stop - rows.start

    def read_batch(start: int) -> dict[str, np.ndarray]:
        of_rows = slice(start + rows.start, start + min(rows.stop, batch_size))
        row_indices = indices[of_rows]
        batch = clips.take(row_indices, None if offsets is None else offsets[of_rows]) | {
            "clip_mask": np.ones(len(row_indices), bool)
        }
        missing = (0, size - len(row_indices))
        return {key: np.pad(array, [missing] + [(0, 0)] * (array.ndim - 1)) for key, array in batch.items()}

    batches = grain.MapDataset.source(range(0, len(indices), batch_size)).map(read_batch)
    return iter(batches.to_iter_dataset(grain.ReadOptions(num_threads=READERS, prefetch_buffer_size=READERS)))
