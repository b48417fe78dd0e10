"""One training step and one evaluation step: pure functions of pytrees.

A batch is a dictionary of `log_mel` float [shape=(B, T, M)], `events` bool [shape=(B, T, E)], `scene` int [shape=(B,)],
`valid_frames` int [shape=(B,)], `clip_mask` bool [shape=(B,)], which is False for padding clips, and `scene_mask` and
`event_mask` bool [shape=(B,)]: whether the scene and the events of a clip count. A scene counts if it is annotated and the clip
is long enough (`config.min_clip_share`), events count if they are annotated. A task has no loss, gradients and counts where its
mask is False.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from mfl_jax import metrics
from mfl_jax.frame_mask import frame_mask
from mfl_jax.network.forward import apply_network, infer
from mfl_jax.training import augmentations, focal_loss, loss_terms, score_histograms, task_balance, weight_average
from mfl_jax.training.optimiser import decay_weights, make_optimiser, schedule_learning_rate

EVENT_SCALARS = ("gamma", "zeta", "active_weight", "inactive_weight")
LOSS_SCALARS = ("alpha", "beta", "eta", "scene_weight", *EVENT_SCALARS)
"""Config fields that a step takes as float32 scalars for the loss, so that changing them compiles nothing."""
AUGMENTATION_KEY, LOSS_KEY = 2**31, 2**31 + 1
"""Folded into the key of a step. Far from 0, 1, ...: `jax.random.split`, which networks use, gives the keys of these numbers."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Everything that training carries from step to step: plain dictionaries of arrays, except for the optimiser's state.

    Attributes:
      step: number of steps taken, int32.
      params: of the network.
      batch_stats: running batch-norm statistics of the network.
      opt_state: of the optimiser.
      feature_stats: `mean` and `std` of each mel bin over the training split, float32 [shape=(M,)].
      sums: `batch_sums` since the start of the epoch. Kept in the state, so that a run stopped within an epoch resumes with
        exact figures.
      average: `params` and `batch_stats` averaged over the steps, which are evaluated in place of the last ones; None if no run
        that shares the step has `config.ema_decay`.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    feature_stats: Any
    sums: Any
    average: Any = None


def batch_sums(scene_logits, event_logits, batch, scalars, *, threshold: float) -> dict:
    """Computes the sums and counts behind losses, focal weights, loss multipliers and scores.

    Args:
      scene_logits: [shape=(B, S)], or None if the scene task is not trained.
      event_logits: [shape=(B, T, E)], or None if the event task is not trained.
      batch: see the module's docstring.
      scalars: `LOSS_SCALARS`; `alpha` and `beta` are not used.
      threshold: an event is detected at this probability or above.

    Returns:
      {"clips": ..., "scene": {...}, "event": {...}}; every leaf adds up over batches and devices.
    """
    clip_mask = batch["clip_mask"]
    sums: dict[str, Any] = {"clips": jnp.sum(clip_mask, dtype=jnp.float32)}
    if scene_logits is not None:
        counted = clip_mask & batch["scene_mask"]  # a padding clip has the scene mask of the clip that fills its row
        sums["scene"] = {
            **focal_loss.scene_sums(scene_logits, batch["scene"], counted, eta=scalars["eta"], weight=scalars["scene_weight"]),
            "counts": metrics.scene_counts(scene_logits.argmax(-1), batch["scene"], counted, classes=scene_logits.shape[-1]),
        }
    if event_logits is not None:
        valid = _annotated_frames(batch, event_logits.shape[1]) & clip_mask[:, None]
        detected = jax.nn.sigmoid(event_logits) >= threshold
        sums["event"] = {
            **focal_loss.event_sums(event_logits, batch["events"], valid, **{name: scalars[name] for name in EVENT_SCALARS}),
            "counts": metrics.frame_counts(detected, batch["events"], valid),
        }
    return sums


def _annotated_frames(batch, frames: int) -> jax.Array:
    """Marks the frames whose events count: bool [shape=(B, frames)]."""
    return frame_mask(batch["valid_frames"], frames) & batch["event_mask"][:, None]


def _clip_counts(scene_logits, event_logits, batch, *, threshold: float) -> dict:
    """Computes the counts of `batch_sums` for each clip, with the `number` of each clip in the batch.

    `predicted` is the answer for every clip; `answers` counts only those whose scene counts.
    """
    counts: dict[str, Any] = {"number": batch["number"]}
    if scene_logits is not None:
        predicted = scene_logits.argmax(-1)
        answers = (predicted[:, None] == jnp.arange(scene_logits.shape[-1])) & batch["scene_mask"][:, None]
        counts["scene"] = {"true": batch["scene"], "predicted": predicted, "answers": answers.astype(jnp.int32)}
    if event_logits is not None:
        valid = _annotated_frames(batch, event_logits.shape[1])
        counts["event"] = jax.vmap(metrics.frame_counts)(jax.nn.sigmoid(event_logits) >= threshold, batch["events"], valid)
    return counts


def _loss_denominators(sums: dict) -> dict:
    """Selects the counts that the loss is divided by, which must be those of the global batch."""
    names = {"scene": ("clips",), "event": ("clips", "active", "inactive")}
    counts: dict[str, Any] = {task: {name: sums[task][name] for name in names[task]} for task in names if task in sums}
    counts["loss_terms"] = {name: term["clips"] for name, term in sums.get("loss_terms", {}).items()}
    return counts


def loss_and_gradients(
    params, batch_stats, feature_stats, batch, scalars, *, graphdef, reduction, threshold, axis_name, key=None
):
    """Computes the loss of a global batch and its gradients.

    Each device differentiates its share of the loss, divided by the global counts; shares and gradients are then summed over
    devices. (A sum over devices inside the differentiated function would count each device's gradient once per device.)

    Args:
      params: of the network, with `task_balance.LOG_VARIANCES` for uncertainty weighting.
      batch_stats: running batch-norm statistics.
      feature_stats: of the training split.
      batch: this device's part of the batch.
      scalars: as in `train_step`.
      graphdef: structure of the network.
      reduction: of `focal_loss.multi_focal_loss`.
      threshold: of the detections that are counted.
      axis_name: name of the device axis, or None on one device.
      key: random key of the step on this device; None if nothing in it is random.

    Returns:
      The loss, the gradients, the new batch statistics and the sums, all of the global batch.
    """

    def loss_share(params):
        logits, new_stats = apply_network(
            task_balance.select_network_params(params), batch_stats, feature_stats, batch,
            graphdef=graphdef, train=True, axis_name=axis_name, key=key,
        )  # fmt: skip
        sums = batch_sums(*logits, batch, scalars, threshold=threshold)
        weights = scalars["loss_terms"]
        if weights:
            sums["loss_terms"] = loss_terms.sum_terms(logits, batch, weights, jax.random.fold_in(key, LOSS_KEY))
        global_counts = _loss_denominators(sums)
        if axis_name is not None:
            global_counts = jax.lax.psum(global_counts, axis_name)
        scene, event = ({**sums[task], **global_counts[task]} if task in sums else None for task in ("scene", "event"))
        alpha, beta, penalty = scalars["alpha"], scalars["beta"], 0.0
        if task_balance.LOG_VARIANCES in params:
            log_variances = params[task_balance.LOG_VARIANCES]
            learned, penalty = task_balance.uncertainty_weights(
                log_variances, {task: global_counts[task]["clips"] for task in log_variances}
            )
            alpha, beta = alpha * learned.get("scene", 1.0), beta * learned.get("event", 1.0)
            if axis_name is not None:
                penalty /= jax.lax.axis_size(axis_name)  # each device's share of a term that is added once
        loss = focal_loss.multi_focal_loss(scene, event, alpha=alpha, beta=beta, reduction=reduction)
        if weights:
            penalty += loss_terms.weigh_terms(sums["loss_terms"], weights, global_counts["loss_terms"])
        return loss + penalty, (new_stats, sums)

    (loss, (new_stats, sums)), gradients = jax.value_and_grad(loss_share, has_aux=True)(params)
    if axis_name is not None:
        # The batch statistics are already sums over devices, equal on all of them.
        loss, gradients, sums = jax.lax.psum((loss, gradients, sums), axis_name)
    return loss, gradients, new_stats, sums


def train_step(
    state: TrainState,
    batch: dict,
    scalars: dict,
    *,
    graphdef,
    reduction: str,
    threshold: float,
    optimiser: str,
    axis_name: str | None,
) -> tuple[TrainState, jax.Array]:
    """Takes one training step.

    Args:
      state: before the step.
      batch: this device's part of the batch.
      scalars: `LOSS_SCALARS`, `OPTIMISER_SCALARS` and, with uncertainty weighting, `balance_learning_rate`, float32;
        `loss_terms` and `augmentations`, dictionaries of those that are used; `optimiser.schedule_scalars`, `weight_decay` and
        `ema_decay`, if used; and the `seed` of the random keys, uint32. They are arrays, so that changing them compiles nothing.
      graphdef: structure of the network.
      reduction: of `focal_loss.multi_focal_loss`.
      threshold: of the detections that are counted.
      optimiser: one of `optimiser.OPTIMISERS`.
      axis_name: name of the device axis under `pmap`, or None on one device.

    Returns:
      The state after the step and the loss of the global batch.
    """
    key = jax.random.fold_in(jax.random.key(scalars["seed"]), state.step)
    if axis_name is not None:
        key = jax.random.fold_in(key, jax.lax.axis_index(axis_name))
    batch = augmentations.augment(batch, scalars["augmentations"], jax.random.fold_in(key, AUGMENTATION_KEY), state.feature_stats)
    loss, gradients, batch_stats, sums = loss_and_gradients(
        state.params, state.batch_stats, state.feature_stats, batch, scalars,
        graphdef=graphdef, reduction=reduction, threshold=threshold, axis_name=axis_name, key=key,
    )  # fmt: skip
    scheduled = schedule_learning_rate(scalars, state.step)
    updates, opt_state = make_optimiser(optimiser, scheduled).update(gradients, state.opt_state, state.params)
    updates = decay_weights(updates, state.params, scheduled)
    if task_balance.LOG_VARIANCES in updates:
        updates = task_balance.rescale_updates(updates, scalars["balance_learning_rate"] / scalars["learning_rate"])
    following = dataclasses.replace(
        state,
        step=state.step + 1,
        params=optax.apply_updates(state.params, updates),
        batch_stats=batch_stats,
        opt_state=opt_state,
        sums=jax.tree.map(jnp.add, state.sums, {**sums, "loss": loss, "batches": jnp.float32(1)}),
    )
    if state.average is not None:
        average = weight_average.update_average(state.average, following.params, batch_stats, scalars["ema_decay"], state.step)
        following = dataclasses.replace(following, average=average)
    return following, loss


def eval_step(state: TrainState, batch: dict, scalars: dict, *, graphdef, threshold: float, axis_name: str | None) -> dict:
    """Computes the `batch_sums` of a global batch with the running batch statistics; arguments as in `train_step`.

    Parameters and statistics are the averages if the state has them. `event` also has `histogram`, from
    `score_histograms.count_scores`.

    If the batch has `number` int [shape=(B,)], the number of each clip, the result has `by_clip` too: `number` and the counts of
    each clip of the global batch, in the order of the devices, which on several hosts need not be the order of the clips.
    """
    weights = state.average or {"params": state.params, "batch_stats": state.batch_stats}
    params = task_balance.select_network_params(weights["params"])
    logits = infer(params, weights["batch_stats"], state.feature_stats, batch, graphdef=graphdef)
    sums = batch_sums(*logits, batch, scalars, threshold=threshold)
    if (event_logits := logits[1]) is not None:
        valid = _annotated_frames(batch, event_logits.shape[1]) & batch["clip_mask"][:, None]
        sums["event"]["histogram"] = score_histograms.count_scores(event_logits, batch["events"], valid)
    if axis_name is not None:
        sums = jax.lax.psum(sums, axis_name)
    if "number" in batch:
        by_clip = _clip_counts(*logits, batch, threshold=threshold)
        sums["by_clip"] = by_clip if axis_name is None else jax.lax.all_gather(by_clip, axis_name, tiled=True)
    return sums


def zero_sums(tasks: tuple[str, ...], scenes: int, events: int, scalars: Mapping) -> dict:
    """Builds the `sums` of a `TrainState` before the first step of an epoch; `scalars` as in `train_step`."""

    def sum_one_clip():
        batch = {
            "scene": jnp.zeros(1, jnp.int32),
            "events": jnp.zeros((1, 1, events), bool),
            "valid_frames": jnp.zeros(1, jnp.int32),
            "clip_mask": jnp.zeros(1, bool),
            "scene_mask": jnp.zeros(1, bool),
            "event_mask": jnp.zeros(1, bool),
        }
        scene_logits = jnp.zeros((1, scenes)) if "scene" in tasks else None
        event_logits = jnp.zeros((1, 1, events)) if "event" in tasks else None
        sums = batch_sums(scene_logits, event_logits, batch, scalars, threshold=metrics.THRESHOLD)
        if weights := scalars["loss_terms"]:
            sums["loss_terms"] = loss_terms.zero_sums(weights)
        return {**sums, "loss": jnp.float32(0), "batches": jnp.float32(0)}

    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(sum_one_clip))


def epoch_figures(sums: dict, *, reduction: str) -> dict:
    """Computes the figures of an epoch from its `sums`.

    Args:
      sums: of a `TrainState`, or `batch_sums` added up over a split.
      reduction: of the loss.

    Returns:
      {"scene": {"loss", "focal_weight", "loss_multiplier", "micro_f", "macro_f"}, "event": {"loss", "focal_weight_active",
      "focal_weight_inactive", "loss_multiplier_active", "loss_multiplier_inactive", "micro_f", "macro_f", "error_rate"}}, and
      after training "loss", the mean over batches, and "loss_terms", the mean over clips of each term that the loss has beside
      these, without its weight.
      A focal weight is the mean focal factor. A loss multiplier is the loss over the plain loss, i.e. the mean factor weighted
      by the plain loss, times the constant weight. Both are 1 for plain CE and BCE. A mean over nothing is None, and so is a
      multiplier of a plain loss of 0 or of one not summed since the start of the epoch.
    """

    def mean(total, count):
        return float(total) / float(count) if float(count) else None

    def multiplier(loss, plain):
        return None if math.isnan(plain) else mean(loss, plain)

    figures = {}
    if "batches" in sums:
        figures["loss"] = mean(sums["loss"], sums["batches"])
    if "loss_terms" in sums:
        figures["loss_terms"] = {name: mean(term["total"], term["clips"]) for name, term in sums["loss_terms"].items()}
    if "scene" in sums:
        scene = sums["scene"]
        ratios = metrics.scene_ratios(scene["counts"])
        figures["scene"] = {
            "loss": mean(scene["loss"], scene["clips"]),
            "focal_weight": mean(scene["factor"], scene["clips"]),
            "loss_multiplier": multiplier(scene["loss"], scene["plain_loss"]),
            "micro_f": ratios["micro_f"],
            "macro_f": ratios["macro_f"],
        }
    if "event" in sums:
        event = sums["event"]
        ratios = metrics.frame_ratios(event["counts"])
        cells = float(event["active"]) + float(event["inactive"])
        clips = sums["clips"] if math.isnan(event["clips"]) else event["clips"]  # an earlier version had all events annotated
        figures["event"] = {
            "loss": mean(event["loss"], cells if reduction == "mean" else clips),
            "focal_weight_active": mean(event["active_factor"], event["active"]),
            "focal_weight_inactive": mean(event["inactive_factor"], event["inactive"]),
            "loss_multiplier_active": multiplier(event["active_loss"], event["active_plain_loss"]),
            "loss_multiplier_inactive": multiplier(event["inactive_loss"], event["inactive_plain_loss"]),
            "micro_f": ratios["micro_f"],
            "macro_f": ratios["macro_f"],
            "error_rate": ratios["error_rate"],
        }
    return figures
