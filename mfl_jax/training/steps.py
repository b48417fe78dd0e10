"""One training step and one evaluation step: pure functions of pytrees.

A batch is a dictionary of `log_mel` float [shape=(B, T, M)], `events` bool [shape=(B, T, E)], `scene` int [shape=(B,)],
`valid_frames` int [shape=(B,)] and `clip_mask` bool [shape=(B,)], False for clips that only fill up the batch.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from mfl_jax import metrics
from mfl_jax.frame_mask import frame_mask
from mfl_jax.network.forward import apply_network, infer
from mfl_jax.training import focal_loss, task_balance
from mfl_jax.training.optimiser import make_optimiser

LOSS_SCALARS = ("alpha", "beta", "gamma", "zeta", "eta")
"""Config fields that a step takes as float32 scalars for the loss, so that changing them compiles nothing."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """All that training carries from step to step; plain dictionaries of arrays but for the optimiser's own state.

    Attributes:
      step: steps taken, int32.
      params, batch_stats: the network's.
      opt_state: the optimiser's.
      feature_stats: `mean` and `std` of each mel bin over the training split, float32 [shape=(M,)].
      sums: what `batch_sums` counted since the epoch began. Part of the state, so that a run that is stopped within an epoch
        goes on with the very same figures.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    feature_stats: Any
    sums: Any


def batch_sums(scene_logits, event_logits, batch, scalars, *, threshold: float) -> dict:
    """Counts all that losses, focal weights and scores are made of.

    Args:
      scene_logits, event_logits: of the network; None for a task that is not trained.
      batch: see above.
      scalars: float32 scalars `eta`, `gamma`, `zeta` (and `alpha`, `beta`, not used here).
      threshold: a detection needs at least this probability.

    Returns:
      {"clips": ..., "scene": {...}, "event": {...}}, all of which add up over batches and devices.
    """
    clip_mask = batch["clip_mask"]
    sums = {"clips": jnp.sum(clip_mask, dtype=jnp.float32)}
    if scene_logits is not None:
        sums["scene"] = {
            **focal_loss.scene_sums(scene_logits, batch["scene"], clip_mask, eta=scalars["eta"]),
            "counts": metrics.scene_counts(scene_logits.argmax(-1), batch["scene"], clip_mask, classes=scene_logits.shape[-1]),
        }
    if event_logits is not None:
        frames = event_logits.shape[1]
        valid = frame_mask(batch["valid_frames"], frames) & clip_mask[:, None]
        detected = jax.nn.sigmoid(event_logits) >= threshold
        sums["event"] = {
            **focal_loss.event_sums(event_logits, batch["events"], valid, gamma=scalars["gamma"], zeta=scalars["zeta"]),
            "counts": metrics.frame_counts(detected, batch["events"], valid),
        }
    return sums


def _loss_denominators(sums: dict) -> dict:
    """The counts that a loss is divided by: those that must be the whole batch's, not a device's."""
    shared = {"clips": sums["clips"]}
    if "event" in sums:
        shared["active"], shared["inactive"] = sums["event"]["active"], sums["event"]["inactive"]
    return shared


def loss_and_gradients(
    params, batch_stats, feature_stats, batch, scalars, *, graphdef, reduction, threshold, axis_name, dropout_key=None
):
    """The loss of a (global) batch and its gradients.

    Each device differentiates its own share of the loss, divided by the global counts; the shares and their gradients then
    add up. (A sum over devices inside the differentiated function would count every device's gradient once more.)

    Returns:
      The loss, the gradients, the new batch statistics and the batch's sums, all of the global batch.
    """

    def share(params):
        logits, new_stats = apply_network(
            task_balance.select_network_params(params), batch_stats, feature_stats, batch,
            graphdef=graphdef, train=True, axis_name=axis_name, dropout_key=dropout_key,
        )  # fmt: skip
        sums = batch_sums(*logits, batch, scalars, threshold=threshold)
        whole = _loss_denominators(sums)
        if axis_name is not None:
            whole = jax.lax.psum(whole, axis_name)
        event = {**sums["event"], **{k: whole[k] for k in ("active", "inactive")}} if "event" in sums else None
        alpha, beta, penalty = scalars["alpha"], scalars["beta"], 0.0
        if task_balance.LOG_VARIANCES in params:
            learned, penalty = task_balance.uncertainty_weights(params[task_balance.LOG_VARIANCES])
            alpha, beta = alpha * learned.get("scene", 1.0), beta * learned.get("event", 1.0)
            if axis_name is not None:
                penalty /= jax.lax.axis_size(axis_name)  # each device's share of what is added once
        loss = focal_loss.multi_focal_loss(
            sums.get("scene"), event, whole["clips"], alpha=alpha, beta=beta, reduction=reduction
        )  # fmt: skip
        return loss + penalty, (new_stats, sums)

    (loss, (new_stats, sums)), gradients = jax.value_and_grad(share, has_aux=True)(params)
    if axis_name is not None:
        # The batch statistics are sums over devices already, and equal on all.
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
    dropout: bool,
    axis_name: str | None,
) -> tuple[TrainState, jax.Array]:
    """Takes one step.

    Args:
      state: before the step.
      batch: the device's part of the batch.
      scalars: `alpha`, `beta`, `gamma`, `zeta`, `eta`, `learning_rate`, float32, and the `seed` of the dropout, uint32: arrays,
        so that a change of them compiles nothing again.
      graphdef: the network's structure. reduction: of `losses.multi_focal_loss`.
      threshold: of the detections that are counted.
      dropout: whether there is any.
      axis_name: of the devices under `pmap`, None on one.

    Returns:
      The state after the step and the loss of the batch.
    """
    dropout_key = None
    if dropout:
        dropout_key = jax.random.fold_in(jax.random.key(scalars["seed"]), state.step)
        if axis_name is not None:
            dropout_key = jax.random.fold_in(dropout_key, jax.lax.axis_index(axis_name))
    loss, gradients, batch_stats, sums = loss_and_gradients(
        state.params, state.batch_stats, state.feature_stats, batch, scalars,
        graphdef=graphdef, reduction=reduction, threshold=threshold, axis_name=axis_name, dropout_key=dropout_key,
    )  # fmt: skip
    updates, opt_state = make_optimiser(scalars["learning_rate"]).update(gradients, state.opt_state, state.params)
    state = dataclasses.replace(
        state,
        step=state.step + 1,
        params=optax.apply_updates(state.params, updates),
        batch_stats=batch_stats,
        opt_state=opt_state,
        sums=jax.tree.map(jnp.add, state.sums, {**sums, "loss": loss, "batches": jnp.float32(1)}),
    )
    return state, loss


def eval_step(state: TrainState, batch: dict, scalars: dict, *, graphdef, threshold: float, axis_name: str | None) -> dict:
    """Returns the `batch_sums` of a batch, computed with the running batch statistics."""
    params = task_balance.select_network_params(state.params)
    logits = infer(params, state.batch_stats, state.feature_stats, batch, graphdef=graphdef)
    sums = batch_sums(*logits, batch, scalars, threshold=threshold)
    return sums if axis_name is None else jax.lax.psum(sums, axis_name)


def zero_sums(tasks: tuple[str, ...], scenes: int, events: int) -> dict:
    """Builds the `sums` of a `TrainState` before the first step of an epoch."""

    def sum_one_clip():
        batch = {
            "scene": jnp.zeros(1, jnp.int32),
            "events": jnp.zeros((1, 1, events), bool),
            "valid_frames": jnp.zeros(1, jnp.int32),
            "clip_mask": jnp.zeros(1, bool),
        }
        scene_logits = jnp.zeros((1, scenes)) if "scene" in tasks else None
        event_logits = jnp.zeros((1, 1, events)) if "event" in tasks else None
        scalars = dict.fromkeys(LOSS_SCALARS, 0.0)
        sums = batch_sums(scene_logits, event_logits, batch, scalars, threshold=metrics.THRESHOLD)
        return {**sums, "loss": jnp.float32(0), "batches": jnp.float32(0)}

    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(sum_one_clip))


def epoch_figures(sums: dict, *, reduction: str) -> dict:
    """Turns the `sums` of an epoch into what a person reads.

    Returns:
      {"scene": {"loss", "focal_weight", "micro_f", "macro_f"}, "event": {"loss", "focal_weight_active",
      "focal_weight_inactive", "micro_f", "macro_f", "error_rate"}} and, where batches were trained on, "loss", their mean.
      A focal weight is the mean of the factor that the focal terms multiply the plain ones by: 1 for plain CE and BCE.
    """

    def mean(total, count):
        return float(total) / float(count) if float(count) else None

    figures = {}
    if "batches" in sums:
        figures["loss"] = mean(sums["loss"], sums["batches"])
    if "scene" in sums:
        scene = sums["scene"]
        ratios = metrics.scene_ratios(scene["counts"])
        figures["scene"] = {
            "loss": mean(scene["loss"], scene["clips"]),
            "focal_weight": mean(scene["factor"], scene["clips"]),
            "micro_f": ratios["micro_f"],
            "macro_f": ratios["macro_f"],
        }
    if "event" in sums:
        event = sums["event"]
        ratios = metrics.frame_ratios(event["counts"])
        cells = float(event["active"]) + float(event["inactive"])
        figures["event"] = {
            "loss": mean(event["loss"], cells if reduction == "mean" else sums["clips"]),
            "focal_weight_active": mean(event["active_factor"], event["active"]),
            "focal_weight_inactive": mean(event["inactive_factor"], event["inactive"]),
            "micro_f": ratios["micro_f"],
            "macro_f": ratios["macro_f"],
            "error_rate": ratios["error_rate"],
        }
    return figures
