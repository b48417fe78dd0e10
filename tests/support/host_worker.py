"""One of several hosts that `test_hosts.py` starts: python tests/support/host_worker.py equality|experiment OUT.

JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID give its place.
"""

import pathlib
import sys
import tempfile
from unittest import mock

import jax
import numpy as np
from absl import flags

from mfl_jax.runtime import hosts
from support import same_batch


def equality(out: pathlib.Path) -> None:
    """Writes the numbers that all hosts compute together, and the gradients without their sum over devices."""
    from mfl_jax.training import steps

    jax.config.update("jax_default_matmul_precision", "highest")
    built = same_batch.build(pathlib.Path(tempfile.mkdtemp()), 0)
    batch = next(same_batch.batches(1))
    loss, grads, stats, sums = same_batch.gradients(built, batch)
    state, losses = same_batch.after_twenty_steps(built)
    values = {
        "loss": loss, "gradients": grads, "statistics": stats, "sums": sums, "losses": losses, "params": state.params,
        "evaluated": built.eval_step(state, same_batch.rows_of(built, batch), built.scalars),
    }  # fmt: skip
    with same_batch.without_sums(steps):
        values["without sums"] = same_batch.gradients(built, batch)[1]
    values["devices"] = len(built.devices)
    if jax.process_index() == 0:
        leaves = {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree.leaves_with_path(values)}
        np.savez(out, **leaves)


def experiment(out: pathlib.Path) -> None:
    """Trains an experiment in `out` without its report."""
    from mfl_jax import experiment
    from mfl_jax.reporting import write_report
    from support import small

    with mock.patch.object(write_report, "write_report"):
        flat = {"eta": 0.0, "gamma": 0.0, "zeta": 0.0, "weights_from": "proposed"}
        systems = {"proposed": {}, "flat": flat}
        assert experiment.run(small.small_experiment(out.parent, systems, members_at_once=2, epochs=2), out)


if __name__ == "__main__":
    hosts.define_flags()
    flags.FLAGS(sys.argv[:1])
    hosts.join_cluster()
    {"equality": equality, "experiment": experiment}[sys.argv[1]](pathlib.Path(sys.argv[2]))
