"""From a config and a data set to the compiled steps and the first state of a run."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from mfl_jax import parallel, settings, step
from mfl_jax.data import Dataset
from mfl_jax.errors import InputError
from mfl_jax.models import JointNetwork
from mfl_jax.step import TrainState


@dataclasses.dataclass(frozen=True)
class Run:
    """All that stays the same from the first step to the last.

    Attributes:
      config: of the run. dataset: prepared. devices: that compute it. graphdef: the network's structure.
      train_step, eval_step: compiled, `(state, batch, weights) -> ...`.
      weights: of the loss, float32 scalars.
      initial: the state before the first step; its `feature_stats` are zeros until the training split is read.
      padded_size: first axis of a batch, a multiple of the number of devices.
    """

    config: Any
    dataset: Dataset
    devices: list
    graphdef: Any
    train_step: Callable
    eval_step: Callable
    weights: dict
    initial: TrainState
    padded_size: int


def build(config, dataset: Dataset) -> Run:
    """Builds the network, its optimiser and its steps for a config and a data set; computes nothing yet.

    Raises:
      InputError: the data set or the devices do not fit the config.
    """
    jax.config.update("jax_default_matmul_precision", None if config.matmul_precision == "default" else config.matmul_precision)
    local = jax.local_devices()
    if config.devices > len(local):
        raise InputError(f"config.devices is {config.devices}, and there are {len(local)}")
    devices = local[: config.devices or len(local)]
    tasks = tuple(config.tasks)
    try:
        network = JointNetwork(
            frames=dataset.clip_frames,
            mel_bins=dataset.mel.mel_bins,
            scenes=len(dataset.scenes),
            events=len(dataset.events),
            tasks=tasks,
            channels=config.channels,
            hidden=config.hidden,
            slope=config.slope,
            dropout=config.dropout,
            rngs=nnx.Rngs(params=config.seed),
        )
    except ValueError as error:
        raise InputError(f"{dataset.directory}: {error}") from None
    graphdef, params, batch_stats = nnx.split(network, nnx.Param, nnx.BatchStat)
    params, batch_stats = nnx.to_pure_dict(params), nnx.to_pure_dict(batch_stats)
    optimiser = optax.radam(config.learning_rate)
    bins = dataset.mel.mel_bins
    initial = TrainState(
        step=jnp.int32(0),
        params=params,
        batch_stats=batch_stats,
        opt_state=optimiser.init(params),
        feature_stats={"mean": jnp.zeros(bins, jnp.float32), "std": jnp.ones(bins, jnp.float32)},
        sums=step.zero_sums(tasks, len(dataset.scenes), len(dataset.events)),
    )
    train_step = functools.partial(
        step.train_step,
        graphdef=graphdef,
        optimiser=optimiser,
        reduction=config.reduction,
        threshold=config.threshold,
        dropout_seed=config.seed if config.dropout else None,
    )
    eval_step = functools.partial(step.eval_step, graphdef=graphdef, threshold=config.threshold)
    return Run(
        config=config,
        dataset=dataset,
        devices=devices,
        graphdef=graphdef,
        train_step=parallel.compile_train_step(train_step, devices),
        eval_step=parallel.compile_eval_step(eval_step, devices),
        weights={key: jnp.float32(config[key]) for key in ("alpha", "beta", "gamma", "zeta", "eta")},
        initial=initial,
        padded_size=parallel.padded_batch_size(config.batch_size, len(devices)),
    )


def about(config, dataset: Dataset) -> dict:
    """What a checkpoint tells of itself beside its arrays."""
    return {
        "config": settings.plain(config),
        "scenes": list(dataset.scenes),
        "events": list(dataset.events),
        "mel": dataclasses.asdict(dataset.mel),
        "clip_frames": dataset.clip_frames,
        "fingerprint": dataset.fingerprint,
    }
