"""Several runs at once against the same runs one after another, a training step each.

python -m benchmarks.members [--members=4] [--channels=16] [--batch_size=16] [--rounds=9]
"""

import json

import jax
import numpy as np
from absl import app, flags

from benchmarks import timing
from configs import proposed
from mfl_jax import members, parallel, run
from mfl_jax.data import Dataset
from mfl_jax.features import MelConfig

_MEMBERS = flags.DEFINE_integer("members", 4, "Runs.")
_CHANNELS = flags.DEFINE_integer("channels", 16, "Width of the shared stack.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 16, "Clips in a batch of each run.")
_ROUNDS = flags.DEFINE_integer("rounds", 9, "Timed rounds.")


def measure(count: int, channels: int, batch_size: int, rounds: int) -> dict:
    """Times a step of `count` runs both ways on clips of noise of the paper's size."""
    config = proposed.get_config()
    config.channels, config.batch_size, config.devices = channels, batch_size, 1
    scenes, events = ("a", "b", "c", "d"), tuple(map(str, range(25)))
    dataset = Dataset(None, scenes, events, MelConfig(), 500, {}, "")
    rng = np.random.default_rng(0)
    batches = [
        {
            "log_mel": rng.standard_normal((batch_size, 500, 64), np.float32),
            "events": rng.random((batch_size, 500, 25)) < 0.05,
            "scene": rng.integers(0, 4, batch_size).astype(np.int32),
            "valid_frames": np.full(batch_size, 500, np.int32),
            "clip_mask": np.ones(batch_size, bool),
        }
        for _ in range(count)
    ]
    starts = []
    for seed in range(count):
        config.seed = seed
        starts.append(run.start(config, dataset))
    train_step, _ = run.pure_steps(config, starts[0][0])
    scalars = run.scalars_of(config)
    devices = jax.devices()[:1]
    # Nothing is donated, so that every round takes the same step.
    step = parallel.compile_members(train_step, (0, 0, 0), devices, donate=False)
    states, batch = members.stacked([state for _, state in starts]), members.stacked(batches)
    together = [states, batch, members.stacked([scalars] * count)]
    each = [jax.device_put(jax.tree.map(lambda leaf, i=i: leaf[i : i + 1], together)) for i in range(count)]
    together = jax.device_put(together)
    times = timing.alternate(
        {"at_once": lambda: step(*together)[1], "one_after_another": lambda: [step(*one)[1] for one in each]}, rounds
    )
    return {
        "benchmark": "members", "members": count, "channels": channels, "batch_size": batch_size, **times,
        "ratio": times["one_after_another"]["median_s"] / times["at_once"]["median_s"], **timing.circumstances(),
    }  # fmt: skip


def main(_):
    """Prints the figures as one JSON object."""
    print(json.dumps(measure(_MEMBERS.value, _CHANNELS.value, _BATCH_SIZE.value, _ROUNDS.value)))


if __name__ == "__main__":
    app.run(main)
