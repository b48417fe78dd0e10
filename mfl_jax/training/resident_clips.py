"""Clips that stay on the devices, from which a batch takes its rows by number."""

from collections.abc import Callable

import jax
import numpy as np

from mfl_jax.data.prepared_dataset import Clips
from mfl_jax.runtime import parallel
from mfl_jax.training.device_memory import clips_fit


def place_clips(clips: Clips, devices: list) -> dict[str, jax.Array]:
    """Copies all clips of a split to every device; returns nothing if they do not fit there, or are not in memory."""
    arrays = clips.arrays
    return parallel.replicate(arrays, devices) if arrays is not None and clips_fit(arrays, devices[0]) else {}


def pad_numbers(numbers: np.ndarray, size: int) -> dict[str, np.ndarray]:
    """Fills numbers of clips up to `size`.

    Args:
      numbers: of clips, int [shape=(..., n)].
      size: rows of a batch, at least n.

    Returns:
      `numbers` int32 and `clip_mask` bool [shape=(..., size)]; the mask is False for the rows that only fill the batch up.
    """
    padding = [(0, 0)] * (numbers.ndim - 1) + [(0, size - numbers.shape[-1])]
    return {"numbers": np.pad(numbers, padding).astype(np.int32), "clip_mask": np.pad(np.ones(numbers.shape, bool), padding)}


def take_batch(clips: dict[str, jax.Array], batch: dict) -> dict:
    """Takes the clips of a batch of `pad_numbers`: the batch that `batching.read_batches` yields."""
    return {name: array[batch["numbers"]] for name, array in clips.items()} | {"clip_mask": batch["clip_mask"]}


def compile_take_batch(devices: list) -> Callable[[dict, dict], dict]:
    """Compiles `take_batch` for one batch that is split over devices of this host."""
    if len(devices) == 1:
        return jax.jit(take_batch)  # the type of an array has its mesh: with one, the second step would be compiled again
    mesh = jax.sharding.Mesh(np.array(devices), (parallel.AXIS,))
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(parallel.AXIS))
    return jax.jit(take_batch, out_shardings=split)
