"""What the benchmarks share: the network, noise in the shape of its clips, operations of a step, rounds against PyTorch."""

from collections.abc import Callable, Sequence

import jax
import numpy as np

from benchmarks import timing
from configs import proposed
from mfl_jax.data.mel_spectrogram import MelConfig
from mfl_jax.data.prepared_dataset import Dataset
from mfl_jax.errors import InputError
from mfl_jax.network.joint_network import FREQUENCY_POOLS, SCENE_TIME_POOL
from mfl_jax.training import setup

SCENES, EVENTS, FRAMES, MEL_BINS = 4, 25, 500, 64


def config_of(**fields):
    """The proposed system on one device, with some fields set otherwise."""
    config = proposed.get_config()
    config.update({"devices": 1, **fields})
    return config


def dataset_of(frames: int = FRAMES, events: int = EVENTS) -> Dataset:
    """A data set with the paper's classes and clip length, or others, that lies nowhere."""
    names = tuple(f"scene {n}" for n in range(SCENES)), tuple(f"event {n}" for n in range(events))
    return Dataset(None, *names, MelConfig(), frames, {}, "")


def batch_of(dataset: Dataset, clips: int, seed: int = 0) -> dict:
    """A batch of noise in the shape of a data set's, whole clips all of them."""
    rng = np.random.default_rng(seed)
    frames, mel_bins = dataset.clip_frames, dataset.mel.mel_bins
    return {
        "log_mel": rng.standard_normal((clips, frames, mel_bins), np.float32),
        "events": rng.random((clips, frames, len(dataset.events))) < 0.05,
        "scene": rng.integers(0, len(dataset.scenes), clips).astype(np.int32),
        "valid_frames": np.full(clips, frames, np.int32),
        "clip_mask": np.ones(clips, bool),
    }


def stepper(made: setup.Run) -> Callable[[], jax.Array]:
    """A call that takes the next training step of a run and returns its loss; state and batch stay on the device."""
    batch = batch_of(made.dataset, made.config.batch_size)
    state, batch, scalars = jax.device_put((made.initial, batch, made.scalars), made.devices[0])

    def step():
        nonlocal state
        state, loss = made.train_step(state, batch, scalars)
        return loss

    return step


def of_torch(clips: int, channels: int) -> tuple:
    """The config, parameters, statistics and batch that PyTorch's side takes over; its process gets no settings of ours."""
    config, dataset = config_of(batch_size=clips, channels=channels), dataset_of()
    _, initial = setup.initial_state(config, dataset)
    return config, *jax.device_get((initial.params, initial.batch_stats)), batch_of(dataset, clips)


def forward_multiply_adds(config, clips: int, frames: int = FRAMES, events: int = EVENTS) -> int:
    """Multiplications with an addition of the forward pass of the joint network (Table II), padding left out.

    A training step counts three times as many: the value, and the gradients of inputs and of parameters.
    """
    c, hidden = config.channels, config.hidden
    first, second, third = FREQUENCY_POOLS
    bins = [MEL_BINS, MEL_BINS // first, MEL_BINS // first // second, MEL_BINS // first // second // third]

    def conv(frames, bins, inputs, outputs):
        # The taps of a "same" convolution that fall into its input.
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
    """Checks that our side and PyTorch's compute the same, and times them, each in a process of its own.

    Args:
      ours, theirs: functions of a module, called with `clips` and `channels`, and PyTorch's with a variant as well; as
        `timing.alternate_apart` wants them, and `check` too.
      variants: of PyTorch's side; all that there are where none is named.
      passes: as how many forward passes the operations of a call count.

    Raises:
      InputError: PyTorch is missing, or a variant is unknown.

    Returns:
      The setting, the times of each side, the ratio of PyTorch's best to ours, and the operations that we reach in a second.
    """
    try:
        from benchmarks import peer_step  # here, for the benchmarks that need no PyTorch
    except ModuleNotFoundError as error:
        raise InputError(f"{error.name} is missing: pip install -e '.[peer]' brings what is compared with") from None
    unknown = set(variants) - set(peer_step.VARIANTS)
    if unknown:
        raise InputError(f"flag --variants: {', '.join(sorted(unknown))} is none of {', '.join(peer_step.VARIANTS)}")
    sides = {f"torch_{variant}": (theirs, clips, channels, variant) for variant in variants or peer_step.VARIANTS}
    times = timing.alternate_apart({"mfl_jax": (ours, clips, channels), **sides}, rounds, check)
    best, own = min(times[name]["median_s"] for name in sides), times["mfl_jax"]["median_s"]
    gflop = 2 * passes * forward_multiply_adds(config_of(channels=channels), clips) / 1e9
    return {"batch_size": clips, "channels": channels, **times, "ratio": best / own, "gflop": gflop, "gflop_per_s": gflop / own}
