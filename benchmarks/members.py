"""Several runs at once against the same runs one after another, a training step each.

python -m benchmarks.members [--members=4] [--channels=16,32] [--batch_size=16] [--rounds=9]

`ratio` is the time of one after another over that of all at once.
"""

import jax
from absl import flags

from benchmarks import timing, workload
from mfl_jax import members, parallel, run

_MEMBERS = flags.DEFINE_integer("members", 4, "Runs.")
_CHANNELS = flags.DEFINE_list("channels", ["16", "32"], "Widths of the shared stack.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 16, "Clips in a batch of each run.")
_ROUNDS = flags.DEFINE_integer("rounds", 9, "Timed rounds.")


def measure(count: int, channels: int, clips: int, rounds: int) -> dict:
    """Times a step of `count` runs both ways."""
    configs = [workload.config_of(channels=channels, batch_size=clips, seed=seed) for seed in range(count)]
    starts = [run.start(config, workload.dataset_of()) for config in configs]
    train_step, _ = run.pure_steps(configs[0], starts[0][0])
    # Nothing is donated, so that every round takes the same step.
    step = parallel.compile_members(train_step, (0, 0, 0), jax.devices()[:1], donate=False)
    together = [
        members.stacked([state for _, state in starts]),
        members.stacked([workload.batch_of(clips, seed=seed) for seed in range(count)]),
        members.stacked([run.scalars_of(config) for config in configs]),
    ]
    each = [jax.device_put(jax.tree.map(lambda leaf, i=i: leaf[i : i + 1], together)) for i in range(count)]
    together = jax.device_put(together)
    times = timing.alternate(
        {"at_once": lambda: step(*together)[1], "one_after_another": lambda: [step(*one)[1] for one in each]}, rounds
    )
    ratio = times["one_after_another"]["median_s"] / times["at_once"]["median_s"]
    return {"members": count, "channels": channels, "batch_size": clips, **times, "ratio": ratio}


def results() -> list[dict]:
    """An entry a setting."""
    return [measure(_MEMBERS.value, int(c), _BATCH_SIZE.value, _ROUNDS.value) for c in _CHANNELS.value]


if __name__ == "__main__":
    timing.run(results)
