"""The figures of an experiment: each function draws one figure from plain data and returns it without writing a file.

Every function takes `columns`: 2 draws panels side by side for a wide page, 1 draws them below each other for a phone.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from mfl_jax.plot_style import COLOURS
from mfl_jax.reporting import paper, reliability
from mfl_jax.reporting.paper import SCORES
from mfl_jax.reporting.summary import Row
from mfl_jax.reporting.tables import capitalise, format_system

Records = Mapping[str, Sequence[Sequence[Mapping]]]
"""System -> the epoch records (lines of metrics.jsonl) of each of its runs."""
CELL_INK = ("#111111", "#FFFFFF")
"""Ink on light and on dark cells. It differs from `plot_style.INK`, so that dark pages keep it."""


def _choose_colours(names: Sequence[str]) -> list[str]:
    """Gives the paper's systems the same colour in every figure; other systems get the remaining colours in turn."""
    fixed = {name: colour for name, colour in zip(paper.TITLES, COLOURS, strict=False) if name in names}
    free = [colour for colour in COLOURS if colour not in fixed.values()]
    others = [name for name in names if name not in fixed]
    return [fixed[name] if name in fixed else free[others.index(name) % len(free)] for name in names]


PANEL_IN = 4.0
"""Width of a column of panels. On a phone of 390 px, letters of a figure of one column are 11 px high."""


def _create_panels(count: int, columns: int, *, height_in: float, **settings) -> tuple[Figure, np.ndarray]:
    """Creates a figure with a grid for `count` panels, and returns their axes [shape=(count,)]; places left over stay empty."""
    columns = min(columns, count)
    lines = -(-count // columns)
    figure = Figure(figsize=(PANEL_IN * columns, height_in * lines + 0.6), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False, **settings).ravel()
    for ax in axes[count:]:
        ax.set_visible(False)
    return figure, axes[:count]


def _add_legend_below(figure: Figure, axes) -> None:
    """Adds one legend for all panels, in one line if that is not wider than the figure."""
    handles = {label: handle for ax in axes for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    if not handles:
        return
    widths_in = [0.45 + 0.068 * len(label) for label in handles]  # handle and letters of 10 points
    fitting = int(figure.get_figwidth() // max(widths_in))
    columns = len(handles) if sum(widths_in) <= figure.get_figwidth() else max(1, fitting)
    figure.legend(
        handles.values(), handles.keys(), loc="outside lower center", ncols=columns, handlelength=1.4, handletextpad=0.4,
        columnspacing=1.2,
    )  # fmt: skip


PARAMETERS = {
    "alpha": "weight alpha of the scene loss",
    "eta": "focus eta of the scene loss",
    "gamma": "focus gamma on active frames",
    "zeta": "focus zeta on inactive frames",
}
"""Config field that an experiment may vary -> its description."""


def draw_scores_against(points: Sequence[tuple[float, Row]], lines: Sequence[Row], *, label: str, columns: int = 2) -> Figure:
    """Fig. 2: each of the four scores against a parameter, with bands of the 95 % confidence interval.

    Args:
      points: values of the parameter, each with the row of the summary that has it; one curve per system.
      lines: rows of systems that do not vary the parameter; drawn as horizontal lines.
      label: of the axis of the parameter, which is logarithmic unless 0 is among the values.
      columns: of panels.
    """
    figure, axes = _create_panels(4, columns, height_in=2.9)
    scale = "linear" if any(value == 0 for value, _ in points) else "log"
    systems = list(dict.fromkeys(row["system"] for row in [*(row for _, row in points), *lines]))
    for ax, ((task, name), title) in zip(axes, SCORES.items(), strict=True):
        for system, colour in zip(systems, _choose_colours(systems), strict=True):
            style = {"color": colour, "label": format_system(system, None)}
            curve = {value: row[task][name] for value, row in points if row["system"] == system and task in row}
            if curve:
                values = sorted(curve)
                ax.plot(values, [curve[value]["mean"] for value in values], marker="o", **style)
                _fill_intervals(ax, values, [curve[value] for value in values], colour)
            for score in (row[task][name] for row in lines if row["system"] == system and task in row):
                ax.axhline(score["mean"], linestyle="--", **style)
                _fill_intervals(ax, (0, 1), (score, score), colour, transform=ax.get_yaxis_transform())
        ax.set(xscale=scale, title=f"{capitalise(title)} [%]", xlabel=capitalise(label))
    _add_legend_below(figure, axes)
    return figure


def _fill_intervals(ax, places: Sequence[float], scores: Sequence[Mapping], colour: str, **settings) -> None:
    """Fills confidence intervals if all scores have one, clipped to the range of scores, which those of few runs can exceed."""
    if all(score["interval"] for score in scores):
        low, high = np.clip([score["interval"] for score in scores], 0, 100).T
        ax.fill_between(places, low, high, color=colour, alpha=0.2, linewidth=0, **settings)


def name_curve(row: Row) -> str:
    """Names the curves of a row: by its system, so that `_choose_colours` knows it, or by the variant of a system."""
    varies = row["alpha"] is not None or row["sweep"]
    return format_system(row["system"], row["alpha"], row["sweep"]) if varies else row["system"]


def _draw_curves(ax, runs: Sequence[Sequence[Mapping]], task: str, key: str, *, colour: str, label: str) -> None:
    """Draws a figure of the training clips against epochs: the mean over runs, and a band from the lowest to the highest."""
    curves = [[record["train"][task][key] for record in run] for run in runs]
    shortest = min(map(len, curves))
    values = np.array([[np.nan if value is None else value for value in curve[:shortest]] for curve in curves], float)
    epochs = np.arange(1, shortest + 1)
    ax.plot(epochs, values.mean(0), color=colour, label=label, marker="." if shortest == 1 else None)
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=(1, 2, 5, 10)))
    if len(values) > 1:
        ax.fill_between(epochs, values.min(0), values.max(0), color=colour, alpha=0.15, linewidth=0)


def draw_learning_curves(records: Records, *, columns: int = 2) -> Figure:
    """Loss and micro F of both tasks on the training clips, against epochs."""
    figure, axes = _create_panels(4, columns, height_in=2.9)
    panels = [(task, key) for key in ("loss", "micro_f") for task in ("scene", "event")]
    for ax, (task, key) in zip(axes, panels, strict=True):
        for colour, (system, runs) in zip(_choose_colours(list(records)), records.items(), strict=True):
            if task in runs[0][0]["train"]:
                _draw_curves(ax, runs, task, key, colour=colour, label=format_system(system, None))
        title = f"{task} {'loss' if key == 'loss' else 'micro F [%]'}, training clips"
        ax.set(title=capitalise(title), xlabel="Epoch")
        if key == "loss":
            _set_log_ticks(ax)
    _add_legend_below(figure, axes)
    return figure


def _set_log_ticks(ax) -> None:
    """Makes the vertical axis logarithmic, with ticks at 1, 2 and 5 times powers of ten, or those powers alone."""
    ax.set_yscale("log")
    low, high = ax.get_ylim()
    ax.yaxis.set_major_locator(LogLocator(subs=(1,) if high > 1000 * low else (1, 2, 5), numticks=12))
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_locator(NullLocator())


Curves = Mapping[tuple[str, str], str]
"""(task, key in the epoch records) -> label of the curve."""
LOSS_MULTIPLIERS: Curves = {
    ("scene", "loss_multiplier"): "scenes",
    ("event", "loss_multiplier_active"): "active frames",
    ("event", "loss_multiplier_inactive"): "inactive frames",
}
FOCAL_WEIGHTS: Curves = {
    ("scene", "focal_weight"): "scenes",
    ("event", "focal_weight_active"): "active frames",
    ("event", "focal_weight_inactive"): "inactive frames",
}


def draw_focal_weights(records: Records, curves: Curves, *, columns: int = 2) -> Figure:
    """Draws the loss multipliers of scenes, active frames and inactive frames against epochs.

    Args:
      records: of the systems to draw.
      curves: `LOSS_MULTIPLIERS`, or `FOCAL_WEIGHTS` for runs logged without them.
      columns: of panels.
    """
    quantity = "Loss multiplier" if curves is LOSS_MULTIPLIERS else "Mean focal factor"
    figure, axes = _create_panels(len(records), columns, height_in=2.9, sharey=True)
    for ax, (system, runs) in zip(axes, records.items(), strict=True):
        for colour, ((task, key), label) in zip(COLOURS, curves.items(), strict=False):
            if task in runs[0][0]["train"]:
                _draw_curves(ax, runs, task, key, colour=colour, label=label)
        ax.set(title=format_system(system, None), xlabel="Epoch", ylabel=quantity)
    axes[0].set_ylim(0, max(1.05, axes[0].get_ylim()[1]))  # shared by all
    _add_legend_below(figure, axes)
    return figure


def draw_confusions(rows: Sequence[Row], scenes: Sequence[str], *, columns: int = 2) -> Figure:
    """Scene confusion of each system, percent of the clips of the true scene, summed over seeds.

    Args:
      rows: rows of the summary with scenes.
      scenes: names of the scenes.
      columns: of panels.
    """
    figure, axes = _create_panels(len(rows), columns, height_in=4.0)
    labels = [scene.replace("_", " ") for scene in scenes]
    for ax, row in zip(axes, rows, strict=True):
        counts = np.array(row["scene"]["confusion"], float)
        percent = 100 * counts / np.maximum(counts.sum(1, keepdims=True), 1)
        ax.imshow(percent, cmap="Blues", vmin=0, vmax=100)
        for (true, answer), value in np.ndenumerate(percent):
            ax.text(answer, true, f"{value:.0f}", ha="center", va="center", color=CELL_INK[int(value > 55)])
        ticks = range(len(scenes))
        ax.set_xticks(ticks, labels, rotation=30, ha="right")
        ax.set_yticks(ticks, labels)
        ax.set(title=format_system(row["system"], row["alpha"], row["sweep"]), xlabel="Answer", ylabel="True scene")
        ax.grid(False)
    return figure


def draw_reliability(rows: Sequence[Row], *, columns: int = 2) -> Figure:
    """Share of active frames against the mean probability, in the intervals that have enough cells; one line per system.

    Args:
      rows: rows of the summary with `reliability`.
      columns: unused, as there is one panel.
    """
    figure, (ax,) = _create_panels(1, columns, height_in=3.4 + 0.2 * len(rows))
    ax.plot((0, 1), (0, 1), linestyle="--", color=COLOURS[7], label="probability = share")
    for row, colour in zip(rows, _choose_colours([name_curve(row) for row in rows]), strict=True):
        points = np.array(reliability.select_points(row["reliability"])).reshape(-1, 2)
        ax.plot(*points.T, marker="o", color=colour, label=format_system(row["system"], row["alpha"], row["sweep"]))
    ax.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xlabel="Mean probability", ylabel="Share of active frames")
    _add_legend_below(figure, [ax])
    return figure


def draw_event_scores(
    rows: Sequence[Row],
    events: Sequence[str],
    shares: Sequence[float],
    recordings: Sequence[int] | None = None,
    *,
    columns: int = 2,
) -> Figure:
    """F of each event and system, the most active events first.

    Args:
      rows: rows of the summary with events.
      events: names of the events.
      shares: share of the scored frames in which each event is active.
      recordings: number of development recordings that have each event, shown beside its name.
      columns: width of the figure in columns of panels of the other figures.
    """
    order = np.argsort(shares)[::-1]
    height = 1.1 + len(events) * (0.1 * len(rows) + 0.12)
    figure = Figure(figsize=(PANEL_IN * columns, height), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 1))
    places, thickness = np.arange(len(events)), 0.8 / len(rows)
    names = [format_system(row["system"], row["alpha"], row["sweep"]) for row in rows]
    colours = _choose_colours([name_curve(row) for row in rows])
    for number, (row, name, colour) in enumerate(zip(rows, names, colours, strict=True)):
        values = np.array(row["event"]["class_f"])[order]
        offset = (number - (len(rows) - 1) / 2) * thickness
        left.barh(places + offset, values, thickness, color=colour, label=name)
    right.barh(places, 100 * np.array(shares)[order], 0.6, color=COLOURS[7])
    labels = events if recordings is None else [f"{event} ({n})" for event, n in zip(events, recordings, strict=True)]
    left.set_yticks(places, [labels[m] for m in order])
    left.set_ylim(len(events) - 0.4, -0.6)
    left.set(xlabel="F [%]", xlim=(0, 100))
    right.set_xlabel("Active [% of frames]" if columns > 1 else "Active [%]")
    for ax in (left, right):
        ax.grid(axis="y", visible=False)
    _add_legend_below(figure, [left])
    return figure
