"""Looks at the loss of every step, a little later than it was computed, so that no step waits for it."""

from collections import deque
from collections.abc import Callable

import numpy as np

from mfl_jax.errors import InputError
from mfl_jax.runtime.parallel import STEPS_BEHIND


class LossWatch:
    """Refuses the first loss that is no longer a number."""

    def __init__(self, refuse: Callable[[int, np.ndarray], None]):
        """`refuse(step, loss)` raises; `loss` is a scalar, or one for each of several runs."""
        self._refuse = refuse
        self._waiting = deque()

    def add(self, step: int, loss) -> None:
        """Takes the loss of a step, on its device, and looks at an earlier one."""
        self._waiting.append((step, loss))
        if len(self._waiting) > STEPS_BEHIND:
            self._look()

    def look_at_all(self) -> None:
        """Looks at all that are left, for a state that is to be saved."""
        while self._waiting:
            self._look()

    def _look(self):
        step, loss = self._waiting.popleft()
        loss = np.asarray(loss)
        if not np.isfinite(loss).all():
            self._refuse(step, loss)


def nan_loss_error(step: int, epoch_steps: int, what: str, checkpoints) -> InputError:
    """The error of a step whose loss is no number.

    Args:
      step: counted from 1. epoch_steps: steps of an epoch. what: of which run, and which loss.
      checkpoints: of the run, a `Checkpoints`.
    """
    epoch, number = divmod(step - 1, epoch_steps)
    return InputError(
        f"the loss of step {step} (epoch {epoch + 1}, batch {number + 1} of {epoch_steps}) is no number any more: {what}; "
        f"{checkpoints.last_good()}; try a lower config.learning_rate"
    )
