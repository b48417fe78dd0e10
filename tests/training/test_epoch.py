"""The end of an epoch: its sums, the state that is saved, and whether it is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mfl_jax.runtime import parallel
from mfl_jax.training import epoch, epoch_log
from mfl_jax.training.steps import TrainState


def test_the_next_epoch_starts_from_zero_and_does_not_overwrite_the_saved_state():
    state = TrainState(jnp.int32(5), {"w": jnp.arange(3.0)}, {}, {}, {}, {"loss": jnp.float32(2.5)})
    following, finished, sums = epoch.end_epoch(state)
    step = jax.jit(lambda state: jax.tree.map(lambda leaf: leaf + 1, state), donate_argnums=0)
    following = step(following)
    assert float(sums["loss"]) == 2.5 and float(following.sums["loss"]) == 1 and float(finished.sums["loss"]) == 0
    np.testing.assert_array_equal(finished.params["w"], [0, 1, 2])
    np.testing.assert_array_equal(following.params["w"], [1, 2, 3])


@pytest.mark.parametrize(("losses", "finite"), [(1.0, True), (np.nan, False), ([1.0, np.inf], False), ([1.0, 2.0], True)])
def test_losses_of_one_run_or_several_are_finite(losses, finite):
    assert epoch.is_finite({"loss": np.float32(losses)}) == finite


class Writer:
    """Checkpoints that take a share of the time."""

    def __init__(self, share):
        self.share_of_time = lambda: share


@pytest.mark.parametrize(
    ("share", "number", "last", "hosts", "due"),
    [
        (0.0, 3, False, 1, True),
        (0.04, 3, False, 1, True),
        (0.06, 3, False, 1, False),
        (0.06, 3, True, 1, True),
        (0.06, 4, False, 1, True),  # a multiple of keep_every
        (0.06, 3, False, 2, True),  # all hosts must decide alike
    ],
)
def test_epochs_are_saved_as_long_as_checkpoints_take_little_time(monkeypatch, share, number, last, hosts, due):
    monkeypatch.setattr(parallel, "host_count", lambda: hosts)
    assert epoch.is_checkpoint_due(Writer(share), number, last=last, keep_every=2) == due


def test_a_task_that_was_not_validated_does_not_choose_the_checkpoint():
    scene, event = {"loss": 0.3, "micro_f": 60.0}, {"loss": 0.1, "micro_f": 20.0}
    assert epoch_log.validation_score({"validation": {"scene": scene, "event": event}}) == 40
    assert epoch_log.validation_score({"validation": {"scene": {"loss": None, "micro_f": 0.0}, "event": event}}) == 20
