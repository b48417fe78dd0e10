"""Builds the devices, network, compiled steps and first state of a run from its config and data set."""

import dataclasses
import functools
import importlib.util
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from mfl_jax.data.prepared_dataset import Dataset
from mfl_jax.errors import InputError
from mfl_jax.network.joint_network import JointNetwork
from mfl_jax.runtime import parallel, workdir_config
from mfl_jax.training import steps, task_balance, weight_average
from mfl_jax.training.optimiser import OPTIMISER_SCALARS, make_optimiser
from mfl_jax.training.steps import TrainState

CACHED_STEPS = 16
"""Compiled steps that a process keeps for later runs."""


@dataclasses.dataclass(frozen=True)
class Run:
    """Everything that stays the same from the first step to the last.

    Attributes:
      config: of the run.
      dataset: prepared.
      devices: that compute the run.
      graphdef: structure of the network.
      train_step: compiled `steps.train_step`, `(state, batch, scalars) -> (state, loss)`; donates the state on one device.
      eval_step: compiled `steps.eval_step`, `(state, batch, scalars) -> sums`.
      scalars: for `steps.train_step`.
      initial: state before the first step, without the feature statistics of the training split.
      padded_size: rows of a batch, a multiple of the number of devices.
      rows: the rows that this host reads.
    """

    config: Any
    dataset: Dataset
    devices: list
    graphdef: Any
    train_step: Callable
    eval_step: Callable
    scalars: dict
    initial: TrainState
    padded_size: int
    rows: slice


def configure_process(config) -> None:
    """Applies the config's process-wide settings; call it before anything is compiled."""
    jax.config.update("jax_default_matmul_precision", None if config.matmul_precision == "default" else config.matmul_precision)
    if config.accelerator == "cpu":
        jax.config.update("jax_platforms", "cpu")
    parallel.keep_freed_memory()


def check_accelerator(wanted: str) -> None:
    """Checks that JAX uses the kind of device that the config asks for.

    Args:
      wanted: `config.accelerator`: cpu, gpu, tpu or auto. With auto, a CPU is refused if JAX was installed for an accelerator.

    Raises:
      InputError: JAX uses another kind of device.
    """
    backend = jax.default_backend()
    if wanted == "auto":
        platforms = jax.config.jax_platforms or ""  # type: ignore[attr-defined]  # jax 0.10 does not declare it
        if backend != "cpu" or "cpu" in platforms:
            return
        names = {"gpu": ("jax_cuda13_plugin", "jax_cuda12_plugin", "jax_rocm7_plugin"), "tpu": ("libtpu",)}
        installed = [kind for kind, packages in names.items() if any(map(importlib.util.find_spec, packages))]
        if installed:
            raise InputError(
                f"JAX is installed for {installed[0].upper()}s but finds none, so this would run on the CPU; fix the driver, "
                "or allow the CPU with --config.accelerator=cpu"
            )
    elif wanted != backend and wanted != "cpu":
        raise InputError(f"config.accelerator is {wanted!r}, but JAX finds only {backend!r}")


def select_devices(config) -> list:
    """Selects the devices that a config asks for: some of this host, or all devices of all hosts.

    Raises:
      InputError: there are fewer devices, or they are of another kind.
    """
    check_accelerator(config.accelerator)
    if parallel.host_count() > 1:
        if config.devices:
            raise InputError(f"config.devices is {config.devices}; must be 0 for several hosts, which use all devices")
        if len(jax.devices()) != parallel.host_count() * jax.local_device_count():
            raise InputError("all hosts of a run must have the same number of devices")
        return jax.devices()
    return select_local_devices(config)


def select_local_devices(config) -> list:
    """Selects the devices of this host that a config asks for.

    Raises:
      InputError: there are fewer devices, or they are of another kind.
    """
    check_accelerator(config.accelerator)
    local = jax.local_devices()
    if config.devices > len(local):
        raise InputError(f"config.devices is {config.devices}, but there are only {len(local)}")
    return local[: config.devices or len(local)]


def build_network(config, dataset: Dataset) -> JointNetwork:
    """Builds the network of a config for the clips and classes of a data set, with random parameters.

    Raises:
      InputError: the data set does not fit the config.
    """
    try:
        return JointNetwork(
            frames=dataset.clip_frames,
            mel_bins=dataset.mel.mel_bins,
            scenes=len(dataset.scenes),
            events=len(dataset.events),
            tasks=tuple(config.tasks),
            channels=config.channels,
            hidden=config.hidden,
            slope=config.slope,
            dropout=config.dropout,
            mask_padding=config.mask_padding,
            compute=config.compute,
            rngs=nnx.Rngs(params=config.seed),
        )
    except ValueError as error:
        raise InputError(f"{dataset.directory}: {error}") from None


def initial_state(config, dataset: Dataset, sharing: Sequence = ()) -> tuple[Any, TrainState]:
    """Builds the state before the first step; arguments as in `step_scalars`.

    Returns:
      The structure of the network (the same for every seed), and the state. Its `feature_stats` are mean 0 and deviation 1 until
      the training split is read.

    Raises:
      InputError: the data set does not fit the config.
    """
    tasks, scalars = tuple(config.tasks), step_scalars(config, sharing)
    network = build_network(config, dataset)
    params = nnx.to_pure_dict(nnx.state(network, nnx.Param))
    if config.balance == "uncertainty":
        params[task_balance.LOG_VARIANCES] = task_balance.initial_log_variances(tasks)
    batch_stats = nnx.to_pure_dict(nnx.state(network, nnx.BatchStat))
    bins = dataset.mel.mel_bins
    return nnx.graphdef(network), TrainState(
        step=jnp.int32(0),
        params=params,
        batch_stats=batch_stats,
        opt_state=make_optimiser(config.optimiser, scalars).init(params),
        feature_stats={"mean": jnp.zeros(bins, jnp.float32), "std": jnp.ones(bins, jnp.float32)},
        sums=steps.zero_sums(tasks, len(dataset.scenes), len(dataset.events), scalars),
        average=weight_average.start_average(params, batch_stats) if "ema_decay" in scalars else None,
    )


def step_scalars(config, sharing: Sequence = ()) -> dict:
    """Reads the config fields that a step takes as arrays, by name: float32, and `seed` as uint32.

    Loss terms, augmentations, `weight_decay` and `ema_decay` are left out where they are 0, so that a step does not compute them.

    Args:
      config: of the run.
      sharing: configs of the runs that share the compiled step. What any of them uses is not left out; 0 changes nothing then.
    """
    configs = [config, *sharing]
    scalars: dict[str, Any] = {field: np.float32(config[field]) for field in (*steps.LOSS_SCALARS, *OPTIMISER_SCALARS)}
    scalars["balance_learning_rate"] = np.float32(config.balance_learning_rate or config.learning_rate)
    scalars["seed"] = np.uint32(config.seed)
    for field in ("weight_decay", "ema_decay"):
        if any(other[field] for other in configs):
            scalars[field] = np.float32(config[field])
    scalars["loss_terms"] = {name: np.float32(value) for name, value in config.loss_terms.items() if value}
    used = sorted({name for other in configs for name, value in other.augmentations.items() if value})
    scalars["augmentations"] = {name: np.float32(config.augmentations.get(name, 0)) for name in used}
    return scalars


class StepSettings(NamedTuple):
    """Everything compiled into a step. Runs with equal settings on the same devices share their compiled steps."""

    graphdef: Any
    reduction: str
    threshold: float
    optimiser: str


def step_settings(config, graphdef) -> StepSettings:
    """Reads the settings of a config's steps; `graphdef` is the structure of its network."""
    return StepSettings(graphdef, config.reduction, config.threshold, config.optimiser)


def bind_steps(settings: StepSettings) -> tuple[Callable, Callable]:
    """Binds everything but the name of the device axis to `steps.train_step` and `steps.eval_step`."""
    return (
        functools.partial(steps.train_step, **settings._asdict()),
        functools.partial(steps.eval_step, graphdef=settings.graphdef, threshold=settings.threshold),
    )


@functools.lru_cache(maxsize=CACHED_STEPS)
def compile_steps(settings: StepSettings, devices: tuple) -> tuple[Callable, Callable]:
    """Compiles the training step and the evaluation step, once per process for equal settings and devices."""
    train_step, eval_step = bind_steps(settings)
    return parallel.compile_train_step(train_step, list(devices)), parallel.compile_eval_step(eval_step, list(devices))


def build_run(config, dataset: Dataset) -> Run:
    """Builds everything that a run needs before its first step.

    Raises:
      InputError: the data set or the devices do not fit the config.
    """
    configure_process(config)
    devices = select_devices(config)
    graphdef, initial = initial_state(config, dataset)
    train_step, eval_step = compile_steps(step_settings(config, graphdef), tuple(devices))
    padded_size = parallel.padded_batch_size(config.batch_size, len(devices))
    return Run(
        config=config,
        dataset=dataset,
        devices=devices,
        graphdef=graphdef,
        train_step=train_step,
        eval_step=eval_step,
        scalars=step_scalars(config),
        initial=initial,
        padded_size=padded_size,
        rows=parallel.host_rows(padded_size),
    )


def checkpoint_metadata(config, dataset: Dataset) -> dict:
    """Describes the arrays of a checkpoint: config, classes, spectrogram settings and data fingerprint."""
    return {
        "config": workdir_config.to_plain_dict(config),
        "scenes": list(dataset.scenes),
        "events": list(dataset.events),
        "mel": dataclasses.asdict(dataset.mel),
        "clip_frames": dataset.clip_frames,
        "fingerprint": dataset.fingerprint,
    }
