"""Checks the loss of every step a few steps late, so that no step waits for the check."""

from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np

from mfl_jax.errors import InputError
from mfl_jax.runtime.parallel import STEPS_BEHIND


class LossWatch:
    """Reports the first loss that is not finite."""

    def __init__(self, report: Callable[[int, np.ndarray], Any]):
        """Watches nothing yet.

        Args:
          report: called as `report(step, loss)`, must raise. `loss` is a scalar, or an array with one loss per run of a group.
        """
        self._report = report
        self._pending: deque[tuple[int, Any]] = deque()

    def add(self, step: int, loss) -> None:
        """Queues the loss of a step, still on its device, and checks an earlier one."""
        self._pending.append((step, loss))
        if len(self._pending) > STEPS_BEHIND:
            self._check_oldest()

    def check_all(self) -> None:
        """Checks all queued losses; call it before saving a state."""
        while self._pending:
            self._check_oldest()

    def _check_oldest(self) -> None:
        step, loss = self._pending.popleft()
        loss = np.asarray(loss)
        if not np.isfinite(loss).all():
            self._report(step, loss)


def nan_loss_error(step: int, epoch_steps: int, details: str, last_good: str) -> InputError:
    """Builds the error for a loss that is not finite.

    Args:
      step: counted from 1.
      epoch_steps: steps per epoch.
      details: the run and its loss.
      last_good: which checkpoint is left, from `Checkpoints.last_good`.
    """
    epoch, batch = divmod(step - 1, epoch_steps)
    return InputError(
        f"the loss of step {step} (epoch {epoch + 1}, batch {batch + 1} of {epoch_steps}) is not finite: {details}; "
        f"{last_good}; try a lower config.learning_rate"
    )
