"""Clips that stay on the devices, from which a batch takes its rows by number."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from mfl_jax.data.prepared_dataset import Clips
from mfl_jax.runtime import parallel
from mfl_jax.training.device_memory import clips_fit

FRAMED = ("log_mel", "events")
"""Arrays of clips with an axis of frames."""


def place_clips(clips: Clips, devices: list) -> dict[str, jax.Array]:
    """Copies all clips of a split to every device; returns nothing if they do not fit there, or are not in memory."""
    arrays = clips.arrays
    return parallel.replicate(arrays, devices) if arrays is not None and clips_fit(arrays, devices[0]) else {}


def pad_numbers(numbers: np.ndarray, size: int, **windows: np.ndarray) -> dict[str, np.ndarray]:
    """Fills numbers of clips up to `size`.

    Args:
      numbers: of clips, int [shape=(..., n)].
      size: rows of a batch, at least n.
      **windows: the `next_clip` of each clip and the `offset` from `random_crops.draw_offsets`, int [shape=(..., n)]; or nothing,
        for clips as they were cut.

    Returns:
      `numbers` and `windows` int32 and `clip_mask` bool [shape=(..., size)]; the mask is False for the rows that only fill the
      batch up.
    """
    padding = [(0, 0)] * (numbers.ndim - 1) + [(0, size - numbers.shape[-1])]
    padded = {name: np.pad(array, padding).astype(np.int32) for name, array in {"numbers": numbers, **windows}.items()}
    return {**padded, "clip_mask": np.pad(np.ones(numbers.shape, bool), padding)}


def take_batch(clips: dict[str, jax.Array], batch: dict) -> dict:
    """Takes the clips of a batch of `pad_numbers`: the batch that `batching.read_batches` yields."""
    taken = {name: array[batch["numbers"]] for name, array in clips.items() if not ("offset" in batch and name in FRAMED)}
    if "offset" in batch:
        taken |= _take_windows({name: clips[name] for name in FRAMED}, batch)
    return taken | {"clip_mask": batch["clip_mask"]}


def _take_windows(clips: dict[str, jax.Array], batch: dict) -> dict:
    """Takes every frame from the clip or from the next one."""
    length = clips["log_mel"].shape[1]
    frame = batch["offset"][:, None] + jnp.arange(length)
    number = jnp.where(frame < length, batch["numbers"][:, None], batch["next_clip"][:, None])
    return {name: array[number, frame % length] for name, array in clips.items()}


def compile_take_batch(devices: list) -> Callable[[dict, dict], dict]:
    """Compiles `take_batch` for one batch that is split over devices of this host."""
    if len(devices) == 1:
        return jax.jit(take_batch)  # the type of an array has its mesh: with one, the second step would be compiled again
    mesh = jax.sharding.Mesh(np.array(devices), (parallel.AXIS,))
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(parallel.AXIS))
    return jax.jit(take_batch, out_shardings=split)
