"""Checkpoints of networks with random parameters, written as training does."""

import dataclasses
import pathlib

import jax
import numpy as np

from mfl_jax.runtime import workdir_config
from mfl_jax.training import setup
from mfl_jax.training.checkpoints import Checkpoints
from support.small import AUDIO, small_config


def random_state(config, dataset, step, seed):
    """A state as after `step` steps, with parameters and statistics far from their initial values."""
    rng = np.random.default_rng(seed)
    graphdef, state = setup.initial_state(config, dataset)

    def perturb(value):
        return np.asarray(value) + rng.normal(0, 0.3, np.shape(value)).astype(np.float32)

    params = jax.tree.map(perturb, state.params)
    batch_stats = jax.tree.map(lambda value: np.abs(perturb(value)) + np.float32(0.1), state.batch_stats)
    bins = AUDIO["mel_bins"]
    stats = {"mean": np.linspace(-9, -3, bins, dtype=np.float32), "std": np.linspace(1, 3, bins, dtype=np.float32)}
    changes = {"step": np.int32(step), "params": params, "batch_stats": batch_stats, "feature_stats": stats}
    return graphdef, dataclasses.replace(state, **changes)


def save_random_checkpoints(workdir, dataset, *steps, folder="checkpoints", seed=0, **fields):
    """Writes a checkpoint for each step; returns the structure and the state of the last one."""
    config = small_config(pathlib.Path("elsewhere"), **fields)
    workdir_config.claim_workdir(workdir, config)
    with Checkpoints(workdir / folder, keep=2) as checkpoints:
        for step in steps:
            graphdef, state = random_state(config, dataset, step, seed + step)
            checkpoints.save(state, {**setup.checkpoint_metadata(config, dataset), "epoch": 1})
            checkpoints.wait()
    return graphdef, state
