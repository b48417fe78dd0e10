"""Where training starts from, and how often it sees a clip, given how often each event happens; the paper uses neither."""

import dataclasses
from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np

from mfl_jax.data.batching import split_into_batches
from mfl_jax.data.prepared_dataset import Clips
from mfl_jax.frame_mask import frame_mask
from mfl_jax.training.steps import TrainState

CLIPS_AT_ONCE = 256


def compute_event_priors(clips: Clips, numbers: np.ndarray, add: Callable[[np.ndarray], np.ndarray] = np.asarray) -> np.ndarray:
    """Computes the share of annotated frames in which each event is active.

    Args:
      clips: the split.
      numbers: of the training clips that this host counts, int [shape=(n,)].
      add: sums an array over hosts.

    Returns:
      float64 [shape=(E,)], above 0 and below 1: at least half a frame counts as active, and half a frame as inactive.
    """
    events = clips.take(numbers[:0])["events"].shape[-1]
    sums = np.zeros(1 + events)
    for part in split_into_batches(numbers, CLIPS_AT_ONCE):
        batch = clips.take(part)
        valid = frame_mask(batch["valid_frames"], batch["events"].shape[1]) & batch["event_mask"][:, None]
        sums += np.concatenate([[valid.sum()], (batch["events"] & valid[..., None]).sum((0, 1))])
    frames, active = np.split(add(sums), [1])
    frames = np.maximum(frames, 1)
    return np.clip(active, 0.5, frames - 0.5) / frames


def set_event_bias(state: TrainState, priors: np.ndarray, strength: float) -> TrainState:
    """Sets the biases of the event logits of a first state to `strength` times the log odds of the priors.

    RAdam moves a parameter by about the learning rate per step. From biases of 0, the network takes hundreds to thousands of
    steps to learn that most events are seldom active. (Lin et al., ICCV 2017, start from a prior for the same reason.)

    Args:
      state: before the first step.
      priors: of `compute_event_priors` [shape=(E,)].
      strength: `config.prior_bias`.
    """
    bias = (strength * (np.log(priors) - np.log1p(-priors))).astype(np.float32)

    def replace(params):
        event = params["event"]
        output = {**event["output"], "bias": jnp.array(bias)}  # an array each, since a step donates its state
        return {**params, "event": {**event, "output": output}}

    average = state.average and {**state.average, "params": replace(state.average["params"])}
    return dataclasses.replace(state, params=replace(state.params), average=average)


def draw_probabilities(clips: Clips, numbers: np.ndarray, exponents: Sequence[float]) -> list[np.ndarray | None]:
    """Computes how often each training clip is drawn: with weight n^-exponent, n being the number of clips with its rarest event.

    A clip without events has the weight of one with the most frequent event.

    Args:
      clips: the split.
      numbers: of the training clips, int [shape=(n,)].
      exponents: `config.rare_event_sampling` of each run.

    Returns:
      For each exponent float64 [shape=(n,)], with the sum 1, or None if the exponent is 0.
    """
    if not any(exponents):
        return [None] * len(exponents)
    present = np.concatenate([clips.take(part)["events"].any(1) for part in split_into_batches(numbers, CLIPS_AT_ONCE)])
    with_event = np.maximum(present.sum(0), 1)
    fewest = np.where(present, with_event, with_event.max()).min(1)
    share = fewest / fewest.min()  # at least one weight is 1, however large the exponent
    return [share**-exponent / (share**-exponent).sum() if exponent else None for exponent in exponents]
