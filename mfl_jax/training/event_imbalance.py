"""Ways to train rare events more: class weights, logit adjustment, and how often clips are drawn; the paper has none of them."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mfl_jax.data.batching import split_into_batches
from mfl_jax.data.prepared_dataset import Clips
from mfl_jax.frame_mask import frame_mask

IMBALANCE_SCALARS = ("class_weight_exponent", "logit_adjustment")
"""Config fields that a step takes as float32 scalars, with `event_priors`, if either is not 0."""
CLIPS_AT_ONCE = 256


def compute_event_priors(clips: Clips, numbers: np.ndarray, add: Callable[[np.ndarray], np.ndarray] = np.asarray) -> np.ndarray:
    """Computes the share of annotated frames in which each event is active.

    Args:
      clips: the split.
      numbers: of the training clips that this host counts, int [shape=(n,)].
      add: sums an array over hosts.

    Returns:
      float32 [shape=(E,)], above 0: an event without active frames counts as active in half a frame.
    """
    events = clips.take(numbers[:0])["events"].shape[-1]
    sums = np.zeros(1 + events)
    for part in split_into_batches(numbers, CLIPS_AT_ONCE):
        batch = clips.take(part)
        valid = frame_mask(batch["valid_frames"], batch["events"].shape[1]) & batch["event_mask"][:, None]
        sums += np.concatenate([[valid.sum()], (batch["events"] & valid[..., None]).sum((0, 1))])
    frames, active = np.split(add(sums), [1])
    return (np.maximum(active, 0.5) / np.maximum(frames, 1)).astype(np.float32)


def class_weights(priors: jax.Array, exponent: jax.Array) -> jax.Array:
    """Computes the weight of the active frames of each event, prior^-exponent, scaled so that the mean over active frames is 1.

    Args:
      priors: of `compute_event_priors` [shape=(E,)].
      exponent: 0 for equal weights, 1 for weights at which all events have the same part in the loss.
    """
    weights = (priors / jnp.max(priors)) ** -exponent
    return weights * jnp.sum(priors) / jnp.sum(priors * weights)


def adjust_logits(logits: jax.Array, priors: jax.Array, strength: jax.Array) -> jax.Array:
    """Adds `strength` times the log odds of the prior to the logits of each event (Menon et al., ICLR 2021).

    Args:
      logits: [shape=(..., E)].
      priors: of `compute_event_priors` [shape=(E,)].
      strength: 0 for none.
    """
    return logits + strength * (jnp.log(priors) - jnp.log1p(-priors))


def draw_probabilities(clips: Clips, numbers: np.ndarray, exponent: float) -> np.ndarray | None:
    """Computes how often each training clip is drawn: in proportion to (number of clips with its rarest event)^-exponent.

    A clip without events counts as one with the most frequent event.

    Args:
      clips: the split.
      numbers: of the training clips, int [shape=(n,)].
      exponent: `config.rare_event_sampling`.

    Returns:
      float64 [shape=(n,)], with the sum 1; None if the exponent is 0.
    """
    if not exponent:
        return None
    present = np.concatenate([clips.take(part)["events"].any(1) for part in split_into_batches(numbers, CLIPS_AT_ONCE)])
    with_event = np.maximum(present.sum(0), 1)
    fewest = np.where(present, with_event, with_event.max()).min(1)
    weights = fewest.astype(float) ** -exponent
    return weights / weights.sum()


def prior_scalars(
    config, clips: Clips, numbers: np.ndarray, sharing: Sequence = (), add: Callable = np.asarray
) -> dict[str, Any]:
    """Returns the scalars of a training step that depend on the priors; none if no run that shares the step uses them.

    Args:
      config: of the run.
      clips, numbers, add: as in `compute_event_priors`.
      sharing: configs of the runs that share the compiled step.
    """
    if not any(other[field] for other in (config, *sharing) for field in IMBALANCE_SCALARS):
        return {}
    strengths = {field: np.float32(config[field]) for field in IMBALANCE_SCALARS}
    return {"event_priors": compute_event_priors(clips, numbers, add)} | strengths
