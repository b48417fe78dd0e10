"""The order of the clips in an epoch, and batches of one shape, padded and masked."""

import grain
import numpy as np

from mfl_jax.data.prepared_dataset import Clips, split_numbers

READERS = 2
"""Threads that make batches ahead of the one in use, one each."""


def epoch_order(numbers: np.ndarray, *, seed: int, epoch: int) -> np.ndarray:
    """The order of the clips in an epoch: a permutation that depends on the seed and the epoch alone."""
    return np.random.default_rng([seed, epoch]).permutation(numbers)


def batches(
    clips: Clips, numbers: np.ndarray, batch_size: int, *, rows: slice | None = None
) -> grain.DatasetIterator[dict[str, np.ndarray]]:
    """Yields the clips of the given numbers, in their order, as batches of one shape.

    Every clip comes once. What a batch lacks of its rows is zeros whose `clip_mask` is False. The next ones are read while one is
    used.

    Args:
      clips: the split. numbers: int [shape=(n,)].
      batch_size: clips in a batch.
      rows: which of a batch to read and to yield: those of one host, or more than there are clips in a batch, so that it can be
        split evenly. `batch_size` rows from 0 by default.

    Yields:
      `log_mel` float32 [shape=(B, T, M)], `events` bool [shape=(B, T, E)], `scene` int32 [shape=(B,)],
      `valid_frames` int32 [shape=(B,)], `clip_mask` bool [shape=(B,)], with B the number of rows.
    """
    rows = rows or slice(0, batch_size)
    size = rows.stop - rows.start

    def batch(part):
        part = part[rows]
        filled = clips.take(part) | {"clip_mask": np.ones(len(part), bool)}
        return {key: np.pad(value, [(0, size - len(part))] + [(0, 0)] * (value.ndim - 1)) for key, value in filled.items()}

    parts = grain.MapDataset.source(split_numbers(numbers, batch_size)).map(batch)
    return iter(parts.to_iter_dataset(grain.ReadOptions(num_threads=READERS, prefetch_buffer_size=READERS)))
