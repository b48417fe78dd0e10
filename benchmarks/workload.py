"""Shared by the benchmarks: configs, batches of noise, the operations of a step, and timing against PyTorch."""

from collections.abc import Callable, Sequence

import jax
import numpy as np

from benchmarks import timing
from mfl_jax.configs import proposed
from mfl_jax.data.mel_spectrogram import MelConfig
from mfl_jax.data.prepared_dataset import Dataset
from mfl_jax.errors import InputError
from mfl_jax.network.joint_network import FREQUENCY_POOLS, SCENE_TIME_POOL
from mfl_jax.training import setup

SCENES, EVENTS, FRAMES, MEL_BINS = 4, 25, 500, 64


def make_config(**fields):
    """The config of the proposed system on one device, with `fields` changed."""
    config = proposed.get_config()
    config.update({"devices": 1, **fields})
    return config


def make_dataset(frames: int = FRAMES, events: int = EVENTS) -> Dataset:
    """A data set without files; with the paper's number of classes and clip length by default."""
    names = tuple(f"scene {n}" for n in range(SCENES)), tuple(f"event {n}" for n in range(events))
    return Dataset(None, *names, MelConfig(), frames, {}, "")


def make_batch(dataset: Dataset, clips: int, seed: int = 0) -> dict:
    """A batch of noise in the shapes of a data set, with no padding."""
    rng = np.random.default_rng(seed)
    frames, mel_bins = dataset.clip_frames, dataset.mel.mel_bins
    return {
        "log_mel": rng.standard_normal((clips, frames, mel_bins), np.float32),
        "events": rng.random((clips, frames, len(dataset.events))) < 0.05,
        "scene": rng.integers(0, len(dataset.scenes), clips).astype(np.int32),
        "valid_frames": np.full(clips, frames, np.int32),
        "scene_mask": np.ones(clips, bool),
        "event_mask": np.ones(clips, bool),
        "clip_mask": np.ones(clips, bool),
    }


def make_stepper(run: setup.Run) -> Callable[[], jax.Array]:
    """Returns a function that takes the next training step of a run and returns its loss; all arrays stay on the device."""
    batch = make_batch(run.dataset, run.config.batch_size)
    state, batch, scalars = jax.device_put((run.initial, batch, run.scalars), run.devices[0])

    def step():
        nonlocal state
        state, loss = run.train_step(state, batch, scalars)
        return loss

    return step


def arrays_for_torch(config, dataset: Dataset) -> tuple:
    """The config, parameters, batch statistics and batch for PyTorch; its process keeps its own JAX settings."""
    _, initial = setup.initial_state(config, dataset)
    return config, *jax.device_get((initial.params, initial.batch_stats)), make_batch(dataset, config.batch_size)


def forward_multiply_adds(config, clips: int, frames: int = FRAMES, events: int = EVENTS) -> int:
    """Multiply-adds of a forward pass of the joint network (Table II), without those of padding.

    A training step counts three times as many: the values, the gradients of the inputs, and those of the parameters.
    """
    c, hidden = config.channels, config.hidden
    first, second, third = FREQUENCY_POOLS
    bins = [MEL_BINS, MEL_BINS // first, MEL_BINS // first // second, MEL_BINS // first // second // third]

    def conv(frames, bins, inputs, outputs):
        # Taps of a "same" convolution that read its input and not the padding.
        taps = (3 * frames - 2) * (3 * bins - 2)
        return taps * inputs * outputs

    shared = conv(frames, bins[0], 1, c) + conv(frames, bins[1], c, c) + conv(frames, bins[2], c, c)
    scene = conv(frames, bins[3], c, 2 * c) + conv(frames // SCENE_TIME_POOL, bins[3], 2 * c, 2 * c)
    scene += 2 * c * hidden + hidden * SCENES
    gru = 2 * frames * (bins[3] * c + hidden) * 3 * hidden
    event = gru + frames * (2 * hidden * hidden + hidden * events)
    return clips * (shared + scene + event)


def against_torch(
    ours: Callable,
    theirs: Callable,
    check: Callable,
    clips: int,
    channels: int,
    variants: Sequence[str],
    rounds: int,
    *,
    passes: int,
) -> dict:
    """Checks that our side and PyTorch compute the same, and times both, each in a separate process.

    Args:
      ours: module-level function of `clips` and `channels`, as for `timing.alternate_apart`.
      theirs: module-level function of `clips`, `channels` and a variant, as for `timing.alternate_apart`.
      check: compares the results of both sides, as for `timing.alternate_apart`.
      clips: batch size.
      channels: width of the shared stack.
      variants: PyTorch variants to time; all if empty.
      rounds: timed calls of each side.
      passes: number of forward passes that the operations of a call amount to.

    Returns:
      The setting, the times of each side, the ratio of PyTorch's best time to ours, and our operations per second.

    Raises:
      InputError: PyTorch is missing, or a variant is unknown.
    """
    try:
        from benchmarks import peer_step  # imported here because other benchmarks need no PyTorch
    except ModuleNotFoundError as error:
        raise InputError(f"{error.name} is missing; install it with: pip install -e '.[peer]'") from None
    unknown = set(variants) - set(peer_step.VARIANTS)
    if unknown:
        raise InputError(f"flag --variants: {', '.join(sorted(unknown))} not among {', '.join(peer_step.VARIANTS)}")
    sides = {f"torch_{variant}": (theirs, clips, channels, variant) for variant in variants or peer_step.VARIANTS}
    times = timing.alternate_apart({"mfl_jax": (ours, clips, channels), **sides}, rounds, check)
    best_s, ours_s = min(times[name]["median_s"] for name in sides), times["mfl_jax"]["median_s"]
    gflop = 2 * passes * forward_multiply_adds(make_config(channels=channels), clips) / 1e9
    return {
        "batch_size": clips,
        "channels": channels,
        **times,
        "ratio": best_s / ours_s,
        "gflop": gflop,
        "gflop_per_s": gflop / ours_s,
    }
