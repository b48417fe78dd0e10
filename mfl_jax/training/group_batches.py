"""Batches for several runs at once, each run with its own order of the clips."""

from collections.abc import Callable, Generator, Sequence

import numpy as np

from mfl_jax.data import batching
from mfl_jax.data.prepared_dataset import Clips
from mfl_jax.data.random_crops import draw_offsets
from mfl_jax.training import resident_clips


class GroupBatches:
    """The batches of a group of runs.

    Attributes:
      clips: all training clips, as arrays on every device; empty if they do not fit there.
      epoch_steps: steps per epoch.
    """

    def __init__(
        self,
        seeds: Sequence[int],
        batch_size: int,
        clips: Clips,
        training: np.ndarray,
        devices: list,
        *,
        probabilities: Sequence[np.ndarray | None] = (),
        random_crops: Sequence[float] = (),
    ):
        """Puts the clips onto the devices if they fit.

        Args:
          seeds: of the clip order, one per run.
          batch_size: clips per batch of a run.
          clips: the development split.
          training: numbers of the clips to train on, int [shape=(n,)].
          devices: that share the runs.
          probabilities: with which each run draws the clips; None for each clip once an epoch, the default.
          random_crops: as in the config of each run; 0 by default.
        """
        self._seeds, self._batch_size, self._split, self._training = seeds, batch_size, clips, training
        self._draws, self._random_crops = probabilities or [None] * len(seeds), random_crops
        self.epoch_steps = -(-len(training) // batch_size)
        self.clips = resident_clips.place_clips(clips, devices)

    def epoch(self, epoch: int, first: int = 0) -> Generator[tuple[dict, int], None, None]:
        """Yields the batches of an epoch, from batch number `first` on, with the number of clips per run.

        A batch has a leading axis of runs. It holds `numbers` of clips if those are on the devices, else the clips themselves;
        `clip_mask` is False for clips that only fill it up.
        """
        orders = np.stack(
            [
                batching.order_epoch(self._training, draw, seed=seed, epoch=epoch)
                for draw, seed in zip(self._draws, self._seeds, strict=True)
            ]
        )
        windows = self._draw_windows(orders, epoch)
        for step in range(first, self.epoch_steps):
            of_batch = slice(step * self._batch_size, (step + 1) * self._batch_size)
            numbers = orders[:, of_batch]
            batch = resident_clips.pad_numbers(
                numbers, self._batch_size, **{name: array[:, of_batch] for name, array in windows.items()}
            )
            if not self.clips:
                batch = self._read_rows(batch)
            yield batch, numbers.shape[1]

    def _draw_windows(self, orders: np.ndarray, epoch: int) -> dict[str, np.ndarray]:
        """Draws the `windows` of `resident_clips.pad_numbers` for all clips of an epoch, [shape=(runs, clips)]."""
        if not any(self._random_crops):
            return {}
        next_clip, valid_frames = self._split.next_clip, self._split.valid_frames
        offsets = [
            draw_offsets(order, next_clip, valid_frames, probability=probability, seed=seed, epoch=epoch)
            for order, probability, seed in zip(orders, self._random_crops, self._seeds, strict=True)
        ]
        return {"offset": np.stack(offsets), "next_clip": next_clip[orders]}

    def _read_rows(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Returns a batch of `resident_clips.pad_numbers` with the clips in place of their numbers."""
        offsets = batch.get("offset", [None] * len(batch["numbers"]))
        rows = [self._split.take(*row) for row in zip(batch["numbers"], offsets, strict=True)]
        return {key: np.stack([row[key] for row in rows]) for key in rows[0]} | {"clip_mask": batch["clip_mask"]}


def take_clips_by_number(step: Callable) -> Callable:
    """Wraps a step of one run, so that it takes its clips from arrays on the device.

    Returns:
      `step(state, clips, batch, scalars, *, axis_name)`, with `GroupBatches.clips` and a batch of `GroupBatches.epoch`.
    """

    def wrapped(state, clips, batch, scalars, *, axis_name):
        return step(state, resident_clips.take_batch(clips, batch) if clips else batch, scalars, axis_name=axis_name)

    return wrapped
