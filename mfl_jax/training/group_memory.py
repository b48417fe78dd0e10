"""How many runs fit into the memory of the devices at once, and whether their clips do."""

import os
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mfl_jax.data.prepared_dataset import Dataset
from mfl_jax.training import setup

MOST_AT_ONCE = 16
"""Runs per device where memory sets no lower limit: the program grows with them."""
RESIDENT_SHARE = 0.25
"""Share of a device's memory that the training clips may take; larger sets are streamed to it."""
USED_SHARE = 0.8
"""Share of a device's memory that the runs and the clips may take together."""


def memory_bytes(device) -> int:
    """Returns the memory of a device; for a CPU half of the machine's, because other processes use it too."""
    stats = device.memory_stats() or {}
    if "bytes_limit" in stats and device.platform != "cpu":
        return stats["bytes_limit"]
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def count_fitting(config, dataset: Dataset, devices: list) -> int:
    """Returns how many runs of a config fit onto the devices at once, by the compiler's analysis; at least 1 per device."""
    graphdef, state = setup.initial_state(config, dataset)
    train_step: Any  # jitted on one device, so it can be lowered
    train_step, _ = setup.compile_steps(setup.step_settings(config, graphdef), tuple(devices[:1]))
    clips, frames = config.batch_size, dataset.clip_frames
    batch = {
        "log_mel": jax.ShapeDtypeStruct((clips, frames, dataset.mel.mel_bins), jnp.float32),
        "events": jax.ShapeDtypeStruct((clips, frames, len(dataset.events)), bool),
        "scene": jax.ShapeDtypeStruct((clips,), jnp.int32),
        "valid_frames": jax.ShapeDtypeStruct((clips,), jnp.int32),
        "clip_mask": jax.ShapeDtypeStruct((clips,), bool),
    }
    needs = train_step.lower(state, batch, setup.step_scalars(config)).compile().memory_analysis()
    run_bytes = needs.temp_size_in_bytes + 2 * needs.argument_size_in_bytes
    fitting = (USED_SHARE - RESIDENT_SHARE) * memory_bytes(devices[0]) // run_bytes
    return int(min(max(fitting, 1), MOST_AT_ONCE)) * len(devices)


def clips_fit(arrays: Mapping[str, np.ndarray], device) -> bool:
    """Whether the arrays of all training clips fit onto a device beside the runs."""
    return sum(array.nbytes for array in arrays.values()) <= RESIDENT_SHARE * memory_bytes(device)
