"""Time and memory of a training step as the batch, the length of a clip and the number of events grow.

python -m benchmarks.scaling [--channels=32] [--rounds=3] [--plot=scaling.png]

`time_ratio` and `memory_ratio` are over the first setting of each series; memory is what the compiler lays out for the step.
"""

from benchmarks import timing, workload
from mfl_jax.training import setup

SERIES = {
    "clips in a batch": ("clips", (4, 8, 16, 32, 64)),
    "length of a clip [s]": ("seconds", (10, 30, 60, 120, 300, 600)),
    "events": ("events", (25, 50, 100, 200, 527)),
}
USUAL = {"clips": 4, "seconds": 10, "events": 25}


def measure(kind: str, values: tuple[int, ...], channels: int, rounds: int) -> list[dict]:
    """Times the steps of one series in turns."""
    sides, memory = {}, {}
    for value in values:
        size = USUAL | {kind: value} | ({"clips": 1} if kind == "seconds" else {})
        frames = 50 * size["seconds"]
        config = workload.make_config(batch_size=size["clips"], channels=channels)
        made = setup.build_run(config, workload.make_dataset(frames, size["events"]))
        batch = workload.make_batch(made.dataset, size["clips"])
        needs = made.train_step.lower(made.initial, batch, made.scalars).compile().memory_analysis()
        memory[value] = needs.temp_size_in_bytes + needs.argument_size_in_bytes + needs.output_size_in_bytes
        sides[value] = workload.make_stepper(made)
    times = timing.alternate(sides, rounds)
    first = values[0]
    return [
        {
            "series": kind, "value": value, "step": times[value], "memory_mb": memory[value] / 2**20,
            "value_ratio": value / first, "time_ratio": times[value]["median_s"] / times[first]["median_s"],
            "memory_ratio": memory[value] / memory[first],
        }
        for value in values
    ]  # fmt: skip


def draw(results: list[dict], file: str) -> None:
    """Time and memory against each series, on axes that both start at 0, so that what is linear looks it."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5.5), layout="constrained")
    axes = figure.subplots(2, len(SERIES), squeeze=False)
    for column, (title, (kind, _)) in zip(axes.T, SERIES.items(), strict=True):
        own = [result for result in results if result["series"] == kind]
        values = [result["value"] for result in own]
        column[0].plot(values, [result["step"]["median_s"] for result in own], marker="o")
        column[1].plot(values, [result["memory_mb"] for result in own], marker="o")
        column[1].set_xlabel(title)
        for ax in column:
            ax.set(xlim=(0, None), ylim=(0, None))
            ax.grid(alpha=0.2)
    axes[0, 0].set_ylabel("a training step [s]")
    axes[1, 0].set_ylabel("its memory [MiB]")
    figure.savefig(file, dpi=150)


def results(*, channels=32, rounds=3, plot="") -> list[dict]:
    """An entry a size; `plot` names a picture to draw, PNG or SVG."""
    made = [result for kind, values in SERIES.values() for result in measure(kind, values, channels, rounds)]
    if plot:
        draw(made, plot)
    return made


if __name__ == "__main__":
    timing.run(results)
