"""A training step of several runs at once against the same steps one after another.

python -m benchmarks.members [--members=4] [--channels=16,32] [--batch_size=16] [--rounds=9]

`ratio` is time one after another / time at once.
"""

import jax

from benchmarks import timing, workload
from mfl_jax.runtime import parallel
from mfl_jax.training import run_group, setup


def measure(count: int, channels: int, clips: int, rounds: int) -> dict:
    """Times one step of each of `count` runs, at once and one after another."""
    configs = [workload.config_of(channels=channels, batch_size=clips, seed=seed) for seed in range(count)]
    dataset = workload.dataset_of()
    starts = [setup.initial_state(config, dataset) for config in configs]
    train_step, _ = setup.bind_steps(setup.step_settings(configs[0], starts[0][0]))
    # Donate nothing, so that every round takes the same step.
    step = parallel.compile_members(train_step, (0, 0, 0), jax.devices()[:1], donate=False)
    together = [
        run_group.stack_trees([state for _, state in starts]),
        run_group.stack_trees([workload.batch_of(dataset, clips, seed) for seed in range(count)]),
        run_group.stack_trees([setup.step_scalars(config) for config in configs]),
    ]
    single = [jax.device_put(jax.tree.map(lambda leaf, i=i: leaf[i : i + 1], together)) for i in range(count)]
    together = jax.device_put(together)
    times = timing.alternate(
        {"at_once": lambda: step(*together)[1], "one_after_another": lambda: [step(*run)[1] for run in single]},
        rounds,
    )
    ratio = times["one_after_another"]["median_s"] / times["at_once"]["median_s"]
    return {"members": count, "channels": channels, "batch_size": clips, **times, "ratio": ratio}


def results(*, members=4, channels=(16, 32), batch_size=16, rounds=9) -> list[dict]:
    """Returns one entry per width."""
    return [measure(members, width, batch_size, rounds) for width in channels]


if __name__ == "__main__":
    timing.run(results)
