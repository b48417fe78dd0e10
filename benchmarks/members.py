"""Several runs at once against the same runs one after another, a training step each.

python -m benchmarks.members [--members=4] [--channels=16,32] [--batch_size=16] [--rounds=9]

`ratio` is the time of one after another over that of all at once.
"""

import jax

from benchmarks import timing, workload
from mfl_jax.runtime import parallel
from mfl_jax.training import run_group, setup


def measure(count: int, channels: int, clips: int, rounds: int) -> dict:
    """Times a step of `count` runs both ways."""
    configs = [workload.make_config(channels=channels, batch_size=clips, seed=seed) for seed in range(count)]
    dataset = workload.make_dataset()
    starts = [setup.initial_state(config, dataset) for config in configs]
    train_step, _ = setup.bind_steps(setup.step_settings(configs[0], starts[0][0]))
    # Nothing is donated, so that every round takes the same step.
    step = parallel.compile_members(train_step, (0, 0, 0), jax.devices()[:1], donate=False)
    together = [
        run_group.stack_trees([state for _, state in starts]),
        run_group.stack_trees([workload.make_batch(dataset, clips, seed) for seed in range(count)]),
        run_group.stack_trees([setup.step_scalars(config) for config in configs]),
    ]
    each = [jax.device_put(jax.tree.map(lambda leaf, i=i: leaf[i : i + 1], together)) for i in range(count)]
    together = jax.device_put(together)
    times = timing.alternate(
        {"at_once": lambda: step(*together)[1], "one_after_another": lambda: [step(*one)[1] for one in each]}, rounds
    )
    ratio = times["one_after_another"]["median_s"] / times["at_once"]["median_s"]
    return {"members": count, "channels": channels, "batch_size": clips, **times, "ratio": ratio}


def results(*, members=4, channels=(16, 32), batch_size=16, rounds=9) -> list[dict]:
    """An entry a setting."""
    return [measure(members, width, batch_size, rounds) for width in channels]


if __name__ == "__main__":
    timing.run(results)
