"""The part of training that a single run and a group of runs share: resuming, the steps of an epoch, and its end."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Generator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mfl_jax.errors import InputError
from mfl_jax.runtime import parallel
from mfl_jax.training.checkpoints import Checkpoints
from mfl_jax.training.loss_watch import LossWatch
from mfl_jax.training.steps import TrainState

CHECKPOINT_SHARE = 0.05
"""Largest share of the training time that checkpoints may take. Only epochs of a few seconds or less go without one for it."""
Batches = Generator[tuple[dict, int], None, None]
"""Yields batches, each with its number of clips."""


class EpochResult(NamedTuple):
    """The outcome of the steps of one epoch.

    Attributes:
      state: after the last step taken.
      steps: taken since the first epoch.
      clips: seen in this call.
      seconds: spent in this call.
      stop: whether the run was asked to stop.
      complete: whether the last step of the epoch was taken.
    """

    state: TrainState
    steps: int
    clips: int
    seconds: float
    stop: bool
    complete: bool


def resume(checkpoints: Checkpoints, template: TrainState, fingerprint: str, refusal: str) -> TrainState | None:
    """Restores the newest intact checkpoint and deletes any that is later.

    Args:
      checkpoints: of the run or the group.
      template: a state of the same structure.
      fingerprint: of the data set to train on.
      refusal: the error message if the checkpoint was trained on other data.

    Returns:
      The state, or None if there is no checkpoint.

    Raises:
      InputError: the checkpoint was trained on other data, or all checkpoints are damaged.
    """
    restored = checkpoints.resume(template)
    if restored is None:
        return None
    state, about = restored
    if about["fingerprint"] != fingerprint:
        raise InputError(refusal)
    checkpoints.drop_after(int(np.max(state.step)))
    return state


def run_epoch(
    train_step: Callable,
    state: TrainState,
    scalars: Mapping,
    batches: Batches,
    *,
    steps: int,
    epoch_steps: int,
    watch: LossWatch,
    report_step: Callable[[int], Any],
    stop_requested: Callable[[], bool],
) -> EpochResult:
    """Takes the remaining steps of an epoch, or fewer if asked to stop.

    The last steps may still be running when this returns.

    Args:
      train_step: compiled, `(state, batch, scalars) -> (state, loss)`.
      state: before the first step; may be donated.
      scalars: of the steps.
      batches: the remaining batches of the epoch; closed at the end.
      steps: taken before, since the first epoch.
      epoch_steps: steps per epoch.
      watch: gets every loss.
      report_step: called after each step with the number of steps taken.
      stop_requested: called after each step, so equally often on all hosts.

    Raises:
      InputError: a loss is not finite.
    """
    started, clips, stop = time.perf_counter(), 0, False
    with contextlib.closing(batches):
        for batch, batch_clips in batches:
            state, loss = train_step(state, batch, scalars)
            steps += 1
            clips += batch_clips
            watch.add(steps, loss)  # also keeps the steps from running ahead, whose batches take memory
            report_step(steps)
            stop = stop_requested()
            if stop:
                break
    return EpochResult(state, steps, clips, time.perf_counter() - started, stop, steps % epoch_steps == 0)


_copy = jax.jit(lambda tree: jax.tree.map(jnp.copy, tree))


def end_epoch(state: TrainState) -> tuple[TrainState, TrainState, dict]:
    """Ends an epoch on the devices, without waiting for its last steps.

    Returns:
      The state for the next epoch, whose sums are zero; a copy of it, which the next steps do not overwrite; and the sums of the
      epoch.
    """
    # Not compiled: the zeros must lie on the devices as the sums do.
    following = dataclasses.replace(state, sums=jax.tree.map(jnp.zeros_like, state.sums))
    return following, _copy(following), state.sums


def is_finite(sums: dict) -> bool:
    """Whether every loss of an epoch was finite, from its sums on the host; `LossWatch` reports the first that was not."""
    return bool(np.isfinite(sums["loss"]).all())


def is_checkpoint_due(checkpoints: Checkpoints, epoch: int, *, last: bool, keep_every: int = 0) -> bool:
    """Whether to save after an epoch: the last one and those that are kept always, others as often as `CHECKPOINT_SHARE` allows.

    Several hosts save every epoch, since they must decide alike.
    """
    is_kept = keep_every > 0 and epoch % keep_every == 0
    return last or is_kept or parallel.host_count() > 1 or checkpoints.share_of_time() <= CHECKPOINT_SHARE
