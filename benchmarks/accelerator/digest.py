"""The parameters after a few training steps, as a digest."""

import hashlib
from collections.abc import Iterator

import jax
import numpy as np

from benchmarks import workload
from benchmarks.accelerator.setting import Setting
from mfl_jax.training import setup

STEPS = 5


def measure(setting: Setting) -> Iterator[dict]:
    """Takes the steps."""
    run = setup.build_run(setting.config(), setting.dataset())
    batch = workload.make_batch(run.dataset, setting.batch_size)
    state = run.initial
    for _ in range(STEPS):
        state, loss = run.train_step(state, batch, run.scalars)
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(jax.device_get(state.params)):
        digest.update(np.ascontiguousarray(leaf).tobytes())
    yield {"piece": "digest", "digest": digest.hexdigest(), "loss": float(loss)}
