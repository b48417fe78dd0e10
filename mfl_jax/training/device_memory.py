"""How many runs fit into the memory of the devices at once, and whether their clips do."""

import functools
import os
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from mfl_jax.data.prepared_dataset import Dataset
from mfl_jax.network.forward import apply_network
from mfl_jax.training import setup, task_balance

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


def count_fitting(config, dataset: Dataset, devices: list, sharing: Sequence = ()) -> int:
    """Estimates how many runs of a config fit onto the devices at once; at least 1 per device.

    Args:
      config: of one of the runs.
      dataset: to train on.
      devices: that share the runs.
      sharing: configs of all runs, as in `setup.initial_state`.
    """
    fitting = (USED_SHARE - RESIDENT_SHARE) * memory_bytes(devices[0]) // run_bytes(config, dataset, sharing)
    return int(min(max(fitting, 1), MOST_AT_ONCE)) * len(devices)


def run_bytes(config, dataset: Dataset, sharing: Sequence = ()) -> int:
    """Estimates the memory of a training step from its traced function, without compiling it.

    Counts twice the values that the forward pass keeps for the gradient, since the backward pass needs room of its own, and twice
    the state and the batch.
    """
    graphdef, state = setup.initial_state(config, dataset, sharing)
    clips, frames = config.batch_size, dataset.clip_frames
    batch = {
        "log_mel": jax.ShapeDtypeStruct((clips, frames, dataset.mel.mel_bins), jnp.float32),
        "valid_frames": jax.ShapeDtypeStruct((clips,), jnp.int32),
        "clip_mask": jax.ShapeDtypeStruct((clips,), bool),
    }

    def differentiate(params, batch):
        def logits(params):
            forward = functools.partial(apply_network, graphdef=graphdef, train=True, key=jax.random.key(0))
            return forward(params, state.batch_stats, state.feature_stats, batch)[0]

        return jax.vjp(logits, params)

    _, backward = jax.eval_shape(differentiate, task_balance.select_network_params(state.params), batch)
    return 2 * sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves((backward, state, batch)))


def clips_fit(arrays: Mapping[str, np.ndarray], device) -> bool:
    """Whether the arrays of all training clips fit onto a device beside the runs."""
    return sum(array.nbytes for array in arrays.values()) <= RESIDENT_SHARE * memory_bytes(device)
