"""The multi-focal loss (Nada et al., Eqs. 1-6), from logits, in log space.

The paper's eta and zeta are below 1, so d(y ** zeta)/dy is infinite at y = 0: computed from probabilities, the gradient becomes
NaN as soon as the network is confident about a frame. Here every factor is the exponential of a multiple of a log-probability,
and every log-probability is the log-sigmoid of one margin, which is accurate in both tails.

`*_focal_terms` compute one term per clip or per (frame, event) cell, `*_sums` add them up over a batch, and `multi_focal_loss`
reduces and weighs the sums.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class FocalTerms(NamedTuple):
    """Terms of a loss, float32 arrays of equal shape.

    Attributes:
      loss: factor times plain term.
      factor: the focal factors.
      plain: the terms of the plain cross-entropy.
    """

    loss: jax.Array
    factor: jax.Array
    plain: jax.Array


def scene_focal_terms(logits: jax.Array, scenes: jax.Array, *, eta: jax.Array | float) -> FocalTerms:
    """Computes the terms of Eq. 5 and their focal factors: -(1 - y_n)^eta log y_n with n the true scene, y = softmax(logits).

    With d = x_n - logsumexp of the other logits, log y_n = log sigmoid(d) and log(1 - y_n) = log sigmoid(-d). With only
    one scene, y_n = 1, and the loss and its gradient are 0. eta = 0 gives the cross-entropy (Eq. 1).

    Args:
      logits: [shape=(..., S)], any float dtype; computed in float32.
      scenes: integers in [0, S) [shape=(...)].
      eta: focusing parameter, >= 0.

    Returns:
      The terms, with the factors (1 - y_n)^eta [shape=(...)].
    """
    logits = logits.astype(jnp.float32)
    if logits.shape[-1] == 1:
        zero = 0.0 * logits[..., 0]
        return FocalTerms(zero, zero, zero)
    true = jax.nn.one_hot(scenes, logits.shape[-1], dtype=bool)
    # Shift by the highest of the other logits: differences of close logits are exact, differences of logsumexps are not.
    # The shift cancels out of the margin, so it needs no gradient.
    highest = jax.lax.stop_gradient(jnp.max(jnp.where(true, -jnp.inf, logits), axis=-1, keepdims=True))
    relative = logits - highest
    others = jnp.exp(jnp.where(true, -jnp.inf, relative))
    margin = jnp.sum(relative, axis=-1, where=true) - jnp.log(jnp.sum(others, axis=-1))
    return _focal_terms(margin, eta)


def _focal_terms(margin: jax.Array, focus: jax.Array | float) -> FocalTerms:
    """Computes terms from the margins of the right answers, whose log-probability is log sigmoid(margin)."""
    factor = jnp.exp(focus * jax.nn.log_sigmoid(-margin))
    plain = -jax.nn.log_sigmoid(margin)
    return FocalTerms(factor * plain, factor, plain)


def event_focal_terms(logits: jax.Array, active: jax.Array, *, gamma: jax.Array | float, zeta: jax.Array | float) -> FocalTerms:
    """Computes the terms of Eq. 6 and their focal factors, with y = sigmoid(logits).

    An active cell counts -(1 - y)^gamma log y, an inactive one -y^zeta log(1 - y). gamma = zeta = 0 gives the binary
    cross-entropy (Eq. 2).

    Args:
      logits: [shape=(..., E)], any float dtype; computed in float32.
      active: bool, whether the event is active [shape=(..., E)].
      gamma: focusing parameter of active cells, >= 0.
      zeta: focusing parameter of inactive cells, >= 0.

    Returns:
      The terms [shape=(..., E)].

    Raises:
      ValueError: there are no event classes.
    """
    if logits.shape[-1] == 0:
        raise ValueError("the event loss needs at least one event class")
    logits = logits.astype(jnp.float32)
    return _focal_terms(jnp.where(active, logits, -logits), jnp.where(active, gamma, zeta))


def scene_sums(
    logits: jax.Array, scenes: jax.Array, clip_mask: jax.Array, *, eta: jax.Array | float, weight: jax.Array | float = 1.0
) -> dict[str, jax.Array]:
    """Adds up the scene terms of the unmasked clips.

    Args:
      logits: [shape=(B, S)].
      scenes: int [shape=(B,)].
      clip_mask: bool [shape=(B,)].
      eta: focusing parameter.
      weight: multiplies `loss`.

    Returns:
      float32 scalars that add up over batches and devices: `loss`, `factor` and `plain_loss`, sums over clips; `clips`, the
      number of clips.
    """
    terms = scene_focal_terms(logits, scenes, eta=eta)
    return {
        "loss": weight * jnp.sum(terms.loss, where=clip_mask),
        "factor": jnp.sum(terms.factor, where=clip_mask),
        "plain_loss": jnp.sum(terms.plain, where=clip_mask),
        "clips": jnp.sum(clip_mask, dtype=jnp.float32),
    }


def event_sums(
    logits: jax.Array,
    active: jax.Array,
    frame_mask: jax.Array,
    *,
    gamma: jax.Array | float,
    zeta: jax.Array | float,
    active_weight: jax.Array | float = 1.0,
    inactive_weight: jax.Array | float = 1.0,
) -> dict[str, jax.Array]:
    """Adds up the event terms of the unmasked frames.

    Args:
      logits: [shape=(B, T, E)].
      active: bool [shape=(B, T, E)].
      frame_mask: bool [shape=(B, T)].
      gamma, zeta: focusing parameters.
      active_weight, inactive_weight: multiply the losses of active and inactive cells.

    Returns:
      float32 scalars that add up over batches and devices: `loss`, the sum over (frame, event) cells; `active_loss`,
      `active_factor` (focal factors) and `active_plain_loss`, the sums over active cells; the same with `inactive_`; `active`
      and `inactive`, the numbers of such cells; `clips`, the number of clips with an unmasked frame.
    """
    terms = event_focal_terms(logits, active, gamma=gamma, zeta=zeta)
    loss = jnp.where(active, active_weight, inactive_weight) * terms.loss
    on = active & frame_mask[..., None]
    off = ~active & frame_mask[..., None]
    return {
        "loss": jnp.sum(loss, where=frame_mask[..., None]),
        "active_loss": jnp.sum(loss, where=on),
        "inactive_loss": jnp.sum(loss, where=off),
        "active_factor": jnp.sum(terms.factor, where=on),
        "inactive_factor": jnp.sum(terms.factor, where=off),
        "active_plain_loss": jnp.sum(terms.plain, where=on),
        "inactive_plain_loss": jnp.sum(terms.plain, where=off),
        "active": jnp.sum(on, dtype=jnp.float32),
        "inactive": jnp.sum(off, dtype=jnp.float32),
        "clips": jnp.sum(frame_mask.any(-1), dtype=jnp.float32),
    }


REDUCTIONS = ("mean", "sum")


def multi_focal_loss(
    scene: dict[str, jax.Array] | None,
    event: dict[str, jax.Array] | None,
    *,
    alpha: jax.Array | float,
    beta: jax.Array | float,
    reduction: str,
) -> jax.Array:
    """Computes L = alpha * L_scene + beta * L_event (Eq. 3) from `scene_sums` and `event_sums`.

    Args:
      scene: sums of a batch; None if the scene task is not trained.
      event: sums of a batch; None if the event task is not trained.
      alpha: weight of the SCENE loss.
      beta: weight of the EVENT loss.
      reduction: `mean` divides the scene loss by its clips and the event loss by the unmasked (frame, event) cells. `sum` uses
        Eqs. 5 and 6 as printed, a sum over frames and events, averaged over the clips that count for the task.

    Returns:
      The loss, a float32 scalar.
    """
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction must be one of {', '.join(REDUCTIONS)}, not {reduction!r}")
    loss = jnp.float32(0.0)
    if scene is not None:
        loss += alpha * scene["loss"] / jnp.maximum(scene["clips"], 1.0)
    if event is not None:
        cells = jnp.maximum(event["active"] + event["inactive"], 1.0)
        loss += beta * event["loss"] / (cells if reduction == "mean" else jnp.maximum(event["clips"], 1.0))
    return loss
