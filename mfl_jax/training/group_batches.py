"""Batches for several runs at once, each run with its own order of the clips."""

from collections.abc import Callable, Generator, Sequence

import numpy as np

from mfl_jax.data import batching
from mfl_jax.data.prepared_dataset import Clips
from mfl_jax.runtime import parallel
from mfl_jax.training.group_memory import clips_fit


class GroupBatches:
    """The batches of a group of runs.

    Attributes:
      clips: all training clips, as arrays on every device; empty if they do not fit there.
      epoch_steps: steps per epoch.
    """

    def __init__(self, seeds: Sequence[int], batch_size: int, clips: Clips, training: np.ndarray, devices: list):
        """Puts the clips onto the devices if they fit.

        Args:
          seeds: of the clip order, one per run.
          batch_size: clips per batch of a run.
          clips: the development split.
          training: numbers of the clips to train on, int [shape=(n,)].
          devices: that share the runs.
        """
        self._seeds, self._batch_size, self._split, self._training = seeds, batch_size, clips, training
        self.epoch_steps = -(-len(training) // batch_size)
        arrays = clips.arrays
        self.clips = parallel.replicate(arrays, devices) if arrays is not None and clips_fit(arrays, devices[0]) else {}

    def epoch(self, epoch: int, first: int = 0) -> Generator[tuple[dict, int], None, None]:
        """Yields the batches of an epoch, from batch number `first` on, with the number of clips per run.

        A batch has a leading axis of runs. It holds `numbers` of clips if those are on the devices, else the clips themselves;
        `clip_mask` is False for clips that only fill it up.
        """
        orders = [batching.shuffle_indices(self._training, seed=seed, epoch=epoch) for seed in self._seeds]
        for step in range(first, self.epoch_steps):
            part = slice(step * self._batch_size, (step + 1) * self._batch_size)
            numbers = np.stack([order[part] for order in orders])
            clips = numbers.shape[1]
            padding = ((0, 0), (0, self._batch_size - clips))
            mask = np.pad(np.ones(numbers.shape, bool), padding)
            numbers = np.pad(numbers, padding)
            if self.clips:
                yield {"numbers": numbers.astype(np.int32), "clip_mask": mask}, clips
            else:
                rows = [self._split.take(row) for row in numbers]
                yield {key: np.stack([row[key] for row in rows]) for key in rows[0]} | {"clip_mask": mask}, clips


def take_clips_by_number(step: Callable) -> Callable:
    """Wraps a step of one run, so that it takes its clips from arrays on the device.

    Returns:
      `step(state, clips, batch, scalars, *, axis_name)`, with `GroupBatches.clips` and a batch of `GroupBatches.epoch`.
    """

    def wrapped(state, clips, batch, scalars, *, axis_name):
        if clips:
            numbers = batch["numbers"]
            batch = {name: array[numbers] for name, array in clips.items()} | {"clip_mask": batch["clip_mask"]}
        return step(state, batch, scalars, axis_name=axis_name)

    return wrapped
