"""Random changes of the training clips, by name; the paper has none.

`config.augmentations.NAME` is the strength of the augmentation NAME. Strength 0 returns the batch unchanged, and is not computed
unless another run that shares the step has a strength. Spectrograms are natural logarithms of power, so 1 dB is `DECIBEL`.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from mfl_jax.frame_mask import frame_mask

Augmentation = Callable[[dict[str, Any], jax.Array, jax.Array, Mapping[str, jax.Array]], dict[str, Any]]
"""`augment(batch, strength, key, feature_stats)` returns the batch to train on, in the shapes and types of `steps`.

The batch is a device's share of the global batch. The spectrograms are not normalised yet, and padded frames may hold any finite
value afterwards. `strength` is a float32 scalar. `key` is random and differs between steps, devices and runs. `feature_stats` are
those of `steps.TrainState`.
"""

DECIBEL = math.log(10) / 10
"""[natural logarithm of power]"""
LOWEST_GAIN_DB, HIGHEST_GAIN_DB = -6.0, 3.0
"""[dB] range of the gain of the clip that `mix_same_scene` adds."""
FILTER_SEGMENTS = 4


def mix_same_scene(batch, probability, key, feature_stats):
    """Adds another clip of the same scene to clips: powers add up, and the events of both are active.

    The other clip is drawn from this device's rows and made `LOWEST_GAIN_DB` to `HIGHEST_GAIN_DB` louder. Frames that are
    padding in either clip stay as they are. Clips whose scene or events don't count are neither changed nor added to others.

    Args:
      batch: see `Augmentation`.
      probability: of a clip to be mixed, if there is another one of its scene.
      key: random.
      feature_stats: not used.
    """
    del feature_stats
    partner_key, chance_key, gain_key = jax.random.split(key, 3)
    log_mel, events, scene = batch["log_mel"], batch["events"], batch["scene"]
    clips = len(scene)
    usable = batch["clip_mask"] & batch["scene_mask"] & batch["event_mask"]
    is_candidate = (scene[:, None] == scene) & usable[:, None] & usable & ~jnp.eye(clips, dtype=bool)
    partner = jnp.where(is_candidate, jax.random.uniform(partner_key, (clips, clips)), -1.0).argmax(axis=1)
    mixed = is_candidate.any(axis=1) & (jax.random.uniform(chance_key, (clips,)) < probability)
    gain = DECIBEL * jax.random.uniform(gain_key, (clips, 1, 1), minval=LOWEST_GAIN_DB, maxval=HIGHEST_GAIN_DB)
    valid = frame_mask(batch["valid_frames"], log_mel.shape[1])
    both = (valid & valid[partner] & mixed[:, None])[..., None]
    return {
        **batch,
        "log_mel": jnp.where(both, jnp.logaddexp(log_mel, log_mel[partner] + gain), log_mel),
        "events": events | (both & events[partner]),
    }


def filter_frequencies(batch, decibels, key, feature_stats):
    """Makes mel bins louder or softer by a random curve per clip, piecewise linear in `FILTER_SEGMENTS` segments.

    Args:
      batch: see `Augmentation`.
      decibels: every end of a segment is uniform in +-`decibels`.
      key: random.
      feature_stats: not used.
    """
    del feature_stats
    clips, _, bins = batch["log_mel"].shape
    ends = jnp.arange(FILTER_SEGMENTS + 1)
    heights = DECIBEL * decibels * jax.random.uniform(key, (clips, len(ends), 1), minval=-1.0)
    # Not a matrix product, which accelerators round.
    hats = jnp.maximum(0.0, 1.0 - abs(jnp.linspace(0.0, FILTER_SEGMENTS, bins) - ends[:, None]))
    return _add_gain(batch, jnp.sum(heights * hats, axis=1)[:, None])


def change_gain(batch, decibels, key, feature_stats):
    """Makes each clip up to `decibels` louder or softer."""
    del feature_stats
    return _add_gain(batch, DECIBEL * decibels * jax.random.uniform(key, (len(batch["log_mel"]), 1, 1), minval=-1.0))


def mask_frames(batch, longest, key, feature_stats):
    """Hides consecutive frames of each clip, and the events in them.

    Args:
      batch: see `Augmentation`.
      longest: [frames] the number of hidden frames is uniform in 0 ... `longest`, and at most the valid frames of the clip.
      key: random.
      feature_stats: hidden frames are set to the `mean`.
    """
    hidden = _random_interval(key, longest, batch["valid_frames"], batch["log_mel"].shape[1])[..., None]
    return {
        **batch,
        "log_mel": jnp.where(hidden, feature_stats["mean"], batch["log_mel"]),
        "events": batch["events"] & ~hidden,
    }


def mask_frequencies(batch, widest, key, feature_stats):
    """Hides adjacent mel bins of each clip.

    Args:
      batch: see `Augmentation`.
      widest: [mel bins] the number of hidden bins is uniform in 0 ... `widest`.
      key: random.
      feature_stats: hidden bins are set to the `mean`.
    """
    clips, frames, bins = batch["log_mel"].shape
    hidden = _random_interval(key, widest, jnp.full(clips, bins), bins)[:, None]
    valid = frame_mask(batch["valid_frames"], frames)[..., None]
    return {**batch, "log_mel": jnp.where(hidden & valid, feature_stats["mean"], batch["log_mel"])}


def _add_gain(batch, gain):
    """Adds `gain` to the valid frames."""
    valid = frame_mask(batch["valid_frames"], batch["log_mel"].shape[1])[..., None]
    return {**batch, "log_mel": jnp.where(valid, batch["log_mel"] + gain, batch["log_mel"])}


def _random_interval(key, longest, ends, positions):
    """Draws up to `longest` adjacent places below `ends` int [shape=(B,)] in each row: bool [shape=(B, positions)]."""
    length_key, start_key = jax.random.split(key)
    length = jnp.floor(jax.random.uniform(length_key, ends.shape) * (jnp.floor(longest) + 1)).astype(jnp.int32)
    length = jnp.minimum(length, ends)
    start = jnp.floor(jax.random.uniform(start_key, ends.shape) * (ends - length + 1)).astype(jnp.int32)
    offset = jnp.arange(positions) - start[:, None]
    return (offset >= 0) & (offset < length[:, None])


AUGMENTATIONS: dict[str, Augmentation] = {
    "same_scene_mixing": mix_same_scene,
    "filter_augment": filter_frequencies,
    "gain": change_gain,
    "time_mask": mask_frames,
    "frequency_mask": mask_frequencies,
}
"""Name -> augmentation, in the order in which they are applied."""


def augment(
    batch: dict[str, Any], strengths: Mapping[str, jax.Array], key: jax.Array, feature_stats: Mapping[str, jax.Array]
) -> dict[str, Any]:
    """Applies the augmentations that have a strength."""
    for number, (name, change) in enumerate(AUGMENTATIONS.items()):
        if name in strengths:
            batch = change(batch, strengths[name], jax.random.fold_in(key, number), feature_stats)
    return batch
