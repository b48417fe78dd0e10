"""Draws a recording as one picture: spectrogram, event scores, events and scenes over time."""

import io
import pathlib
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator, MultipleLocator

from mfl_jax import plot_style
from mfl_jax.data.annotation import Event
from mfl_jax.data.mel_spectrogram import MelConfig
from mfl_jax.errors import InputError
from mfl_jax.inference import display_data
from mfl_jax.inference.display_data import format_clock, format_count
from mfl_jax.inference.postprocessing import Rule, find_runs
from mfl_jax.inference.prediction import Prediction
from mfl_jax.runtime import storage

COLUMNS = 2000
"""Maximum number of columns."""
ROWS = 100
"""Maximum number of events."""
TIME_STEPS_S = (10, 20, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800)
DETECTED_COLOUR = plot_style.COLOURS[0]
REFERENCE_COLOUR = plot_style.COLOURS[1]
THRESHOLD_COLOUR = plot_style.COLOURS[4]


def write_picture(
    prediction: Prediction,
    audio_file: str | pathlib.Path,
    mel: MelConfig,
    out_png: str | pathlib.Path,
    *,
    reference: Sequence[Event] | None = None,
    rules: Mapping[str, Rule] | None = None,
) -> None:
    """Writes the picture of a recording as a PNG with a white background, atomically.

    Args:
      prediction: the prediction for the recording.
      audio_file: the recording.
      mel: settings of the spectrograms of the model.
      out_png: file to write.
      reference: true events, drawn below the detected ones, or None.
      rules: rule of each event, for its threshold; `Rule()` for events without one.

    Raises:
      InputError: the recording can't be read or is not the one that was predicted, or the picture can't be written.
    """
    log_mel = display_data.read_spectrogram(prediction, audio_file, mel, COLUMNS)
    scores, scenes = display_data.reduce_scores(prediction, COLUMNS), display_data.average_scenes(prediction, COLUMNS)
    with plot_style.theme(), warnings.catch_warnings():
        # The font lacks characters of many scripts and draws boxes for them.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure = draw_figure(prediction, log_mel, scores, scenes, mel, reference=reference, rules=rules)
        encoded = io.BytesIO()
        figure.savefig(encoded, format="png", dpi=150, facecolor="white", metadata={"Software": None})
    out_png = pathlib.Path(out_png)
    try:
        with storage.atomic_path(out_png) as part:
            part.write_bytes(encoded.getbuffer())
    except OSError as error:
        raise InputError(f"{out_png}: can't be written ({error.strerror}); choose another place") from None


def draw_figure(
    prediction: Prediction,
    log_mel: np.ndarray,
    scores: np.ndarray,
    scenes: np.ndarray,
    mel: MelConfig,
    *,
    reference: Sequence[Event] | None = None,
    rules: Mapping[str, Rule] | None = None,
) -> Figure:
    """Draws the picture. Its axes are labelled `spectrogram`, `scores`, `events` and `scenes`; those without data are left out.

    Args:
      prediction: the prediction. Of its frame scores only the number of frames is used.
      log_mel: spectrogram, from `display_data.read_spectrogram`.
      scores: event scores, from `display_data.reduce_scores`.
      scenes: scene probabilities, from `display_data.average_scenes`.
      mel: settings of the spectrogram.
      reference: true events, or None.
      rules: rule of each event, for its threshold; `Rule()` for events without one.
    """
    shown = _choose_rows(prediction, scores, reference)
    known = [label for label in shown if label in prediction.events]
    hidden_count = len(prediction.events) - len(known)
    score_rows = known if len(scores) else []
    occurring = display_data.list_occurring_events(prediction, reference)
    lanes = [label for label in shown if label in occurring]
    heights = {"spectrogram": 2.4}
    if prediction.events:
        heights["scores"] = 0.17 * max(2, len(score_rows))
    if prediction.events or lanes:
        heights["events"] = (0.28 if reference is not None else 0.18) * max(2, len(lanes))
    if prediction.scenes:
        heights["scenes"] = max(1.3, 0.17 * min(len(prediction.scenes), 9))
    figure, axes = _create_panels(heights, prediction.duration_s)
    _draw_spectrogram(axes["spectrogram"], prediction, log_mel, mel)
    if "scores" in axes:
        thresholds = [(rules or {}).get(label, Rule()).threshold for label in score_rows]
        _draw_scores(axes["scores"], prediction, scores, score_rows, thresholds, hidden_count)
    if "events" in axes:
        _draw_events(axes["events"], prediction, lanes, reference)
    if "scenes" in axes:
        _draw_scenes(axes["scenes"], prediction, scenes)
    figure.suptitle(_format_title(prediction), x=0.01, ha="left", fontsize=11)
    return figure


def _choose_rows(prediction: Prediction, scores: np.ndarray, reference: Sequence[Event] | None) -> list[str]:
    """Chooses at most `ROWS` events: occurring ones first, then those with the highest scores."""
    shown = display_data.choose_events(prediction, scores, reference)
    if len(shown) <= ROWS:
        return shown
    occurring = set(display_data.list_occurring_events(prediction, reference))
    peaks = dict(zip(prediction.events, scores.max(0) if len(scores) else (), strict=False))
    kept = set(sorted(shown, key=lambda label: (label in occurring, peaks.get(label, 0)), reverse=True)[:ROWS])
    return [label for label in shown if label in kept]


def _create_panels(heights: dict[str, float], duration_s: float) -> tuple[Figure, dict[str, Axes]]:
    """Creates one panel per name, one below the other, with a common time axis whose lines run through all of them."""
    layout = ConstrainedLayoutEngine(h_pad=0.04, hspace=0.01)
    figure = Figure(figsize=(14, sum(heights.values()) + 0.35 * len(heights) + 1.0), layout=layout)
    column = figure.subplots(len(heights), 1, sharex=True, squeeze=False, height_ratios=list(heights.values()))[:, 0]
    for ax, name in zip(column, heights, strict=True):
        ax.set_label(name)
        ax.grid(False)
        ax.set_axisbelow(False)
        ax.grid(
            axis="x",
            color="white" if name == "spectrogram" else "black",
            alpha=0.3 if name == "spectrogram" else 0.15,
            linewidth=0.6,
        )
        ax.set_xlim(0, duration_s)
    _format_time_axis(column[-1], duration_s)
    return figure, dict(zip(heights, column, strict=True))


def _format_time_axis(ax: Axes, duration_s: float) -> None:
    if duration_s < 60:
        ax.xaxis.set_major_locator(MaxNLocator(14, steps=(1, 2, 5, 10)))
        ax.set_xlabel("seconds")
        return
    step_s = next((step for step in TIME_STEPS_S if duration_s / step <= 14), TIME_STEPS_S[-1])
    ax.xaxis.set_major_locator(MultipleLocator(step_s))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda seconds, _: format_clock(seconds)))
    ax.set_xlabel("minutes:seconds" if duration_s < 3600 else "hours:minutes:seconds")


def _format_title(prediction: Prediction) -> str:
    facts = [] if prediction.scene_label is None else [f"{_clean(prediction.scene_label)} ({prediction.scene.max():.2f})"]
    facts += [f"{format_count(len(prediction.detected), 'event')} detected"] if prediction.events else []
    facts += [f"{prediction.duration_s:.3g} s" if prediction.duration_s < 60 else format_clock(prediction.duration_s)]
    name = prediction.recording if len(prediction.recording) <= 90 else "…" + prediction.recording[-89:]
    return f"{_clean(name, 90)}\n{', '.join(facts)}"


def _clean(text: str, max_length: int = 32) -> str:
    """Makes a text safe to draw: no mathematics, no line breaks, at most `max_length` characters."""
    text = " ".join(text.encode("utf-8", "replace").decode().split())
    return (text if len(text) <= max_length else text[: max_length - 1] + "…").replace("$", r"\$")


def _draw_spectrogram(ax: Axes, prediction: Prediction, log_mel: np.ndarray, mel: MelConfig) -> None:
    low, high = display_data.colour_limits(log_mel)
    frames = display_data.count_spectrogram_frames(prediction, mel)
    extent = (0, frames * mel.hop_s, -0.5, mel.mel_bins - 0.5)
    level_db = display_data.DB * (log_mel.T - high)
    image = ax.imshow(
        level_db, aspect="auto", origin="lower", cmap="magma", vmin=display_data.DB * (low - high), vmax=0, extent=extent,
        interpolation="nearest",
    )  # fmt: skip
    ticks = display_data.choose_frequency_ticks(mel, 0.06)
    ax.set_yticks([position for _, position in ticks], [f"{hz}" if hz < 1000 else f"{hz // 1000}k" for hz, _ in ticks])
    ax.set(ylabel="Hz")
    column_s = prediction.duration_s / len(log_mel)
    reduction = f" (each column: maximum over {column_s:.2g} s)" if frames > len(log_mel) else ""
    ax.set_title(f"Log-mel spectrogram{reduction}", loc="left", fontsize=10)
    ax.figure.colorbar(image, cax=ax.inset_axes((1.01, 0, 0.012, 1)), label="dB")


def _draw_scores(
    ax: Axes, prediction: Prediction, scores: np.ndarray, rows: list[str], thresholds: list[float], hidden_count: int
) -> None:
    title = "Scores" + _describe_thresholds(thresholds) + _describe_hidden_events(hidden_count, len(rows))
    ax.set_title(title, loc="left", fontsize=10)
    if not rows:
        _write_placeholder(ax, "nothing to show")
        return
    columns = [prediction.events.index(label) for label in rows]
    extent = (0, len(prediction.frame_scores) * prediction.hop_s, len(rows) - 0.5, -0.5)
    image = ax.imshow(
        scores[:, columns].T, aspect="auto", cmap="Blues", vmin=0, vmax=1, extent=extent, interpolation="nearest"
    )  # fmt: skip
    _outline_scores(ax, scores[:, columns], thresholds, extent[1] / len(scores))
    _label_rows(ax, rows)
    height = min(1, 12 / len(rows))  # a longer colour bar is no easier to read
    bar = ax.figure.colorbar(image, cax=ax.inset_axes((1.01, 1 - height, 0.012, height)), ticks=(0, 0.5, 1), label="score")
    for threshold in set(thresholds):
        bar.ax.axhline(threshold, color=THRESHOLD_COLOUR, linewidth=1.2)


def _describe_thresholds(thresholds: list[float]) -> str:
    if not thresholds:
        return ""
    low, high = min(thresholds), max(thresholds)
    return (
        f"; outlined where they reach the threshold of {low:g}"
        if low == high
        else (f"; outlined where they reach the threshold of the event, {low:g} to {high:g}")
    )


def _outline_scores(ax: Axes, scores: np.ndarray, thresholds: list[float], column_s: float) -> None:
    """Outlines the scores that reach the threshold of their row.

    Args:
      ax: panel.
      scores: a column per row of the panel [shape=(C, K)].
      thresholds: of the rows.
      column_s: seconds between two of the C values.
    """
    for row, threshold in enumerate(thresholds):
        runs = find_runs(scores[:, row] >= np.float32(threshold)) * column_s
        if len(runs):
            ax.broken_barh(
                [(start, end - start) for start, end in runs], (row - 0.5, 1), facecolors="none", edgecolors=THRESHOLD_COLOUR,
                linewidth=0.7, gid=f"threshold {row}",
            )  # fmt: skip


def _label_rows(ax: Axes, labels: list[str]) -> None:
    """Labels rows 0, 1, ... and draws thin lines between them."""
    ax.set_yticks(range(len(labels)), [_clean(label) for label in labels], fontsize=8)
    ax.set_yticks(np.arange(0.5, len(labels) - 1), minor=True)
    ax.grid(axis="y", which="minor")
    ax.tick_params(which="minor", length=0)


def _describe_hidden_events(hidden_count: int, row_count: int) -> str:
    if not hidden_count:
        return ""
    reason = f"limit of {ROWS} rows" if row_count == ROWS else f"score below {display_data.MIN_SCORE:g}"
    return f" ({format_count(hidden_count, 'event')} hidden: {reason})"


def _draw_events(ax: Axes, prediction: Prediction, lanes: list[str], reference: Sequence[Event] | None) -> None:
    ax.set_title("Events", loc="left", fontsize=10)
    if not lanes:
        _write_placeholder(ax, "none")
        return
    lane_index = {label: index for index, label in enumerate(lanes)}
    filled: dict[str, Any] = {"facecolors": DETECTED_COLOUR, "edgecolors": DETECTED_COLOUR, "linewidth": 0.6}
    line_width = 1.2 if len(reference or ()) < 200 else 0.6
    outlined: dict[str, Any] = {"facecolors": "none", "edgecolors": REFERENCE_COLOUR, "linewidth": line_width}
    upper, height = (-0.4, 0.36) if reference is not None else (-0.32, 0.64)
    for kind, events, top, style in (
        ("detected", prediction.detected, upper, filled),
        ("reference", reference or (), 0.04, outlined),
    ):
        for label in lanes:
            spans = [(event.onset_s, event.offset_s - event.onset_s) for event in events if event.label == label]
            if spans:
                ax.broken_barh(spans, (lane_index[label] + top, height), label=kind, gid=f"{kind} {label}", **style)
    _label_rows(ax, lanes)
    ax.set_ylim(len(lanes) - 0.5, -0.5)
    handles = [Patch(facecolor=DETECTED_COLOUR, edgecolor=DETECTED_COLOUR, label="detected")] if prediction.events else []
    if reference is not None:
        handles.append(Patch(facecolor="none", edgecolor=REFERENCE_COLOUR, linewidth=1.2, label="reference"))
    ax.legend(handles=handles, loc="upper left", bbox_to_anchor=(1, 1), fontsize=8)


def _draw_scenes(ax: Axes, prediction: Prediction, scenes: np.ndarray) -> None:
    order = sorted(range(len(prediction.scenes)), key=lambda index: -scenes[:, index].mean())
    grey = plot_style.COLOURS[7]
    colours = [colour for colour in plot_style.COLOURS if colour != grey]
    # Scenes keep the order of the model, so that each has the same colour in every picture if all have one.
    shown = sorted(order[: len(colours)])
    areas = [scenes[:, index] for index in shown]
    names = [_clean(prediction.scenes[index]) for index in shown]
    colours = colours[: len(shown)]
    if len(order) > len(shown):
        areas.append(scenes[:, order[len(shown) :]].sum(1))
        names.append(f"{len(order) - len(shown)} others")
        colours.append(grey)
    edges_s = np.linspace(0, prediction.duration_s, len(scenes) + 1)
    # A step holds until the next edge; the last value is repeated to reach the end.
    steps = [np.append(area, area[-1]) for area in areas]
    ax.stackplot(edges_s, *steps, step="post", colors=colours, labels=names, linewidth=0)
    ax.set_ylim(0, 1)
    ax.set_yticks([0, 0.5, 1])
    ax.set_ylabel("probability")
    best = [f"{_clean(prediction.scenes[index])} ({prediction.scene[index]:.2f})" for index in np.argsort(-prediction.scene)[:2]]
    ax.set_title("Scenes: " + ", then ".join(best), loc="left", fontsize=10)
    # In the order of the areas, from top to bottom.
    ax.legend(reverse=True, loc="upper left", bbox_to_anchor=(1, 1.04), fontsize=8, labelspacing=0.2)


def _write_placeholder(ax: Axes, text: str) -> None:
    ax.set_yticks([])
    ax.text(0.5, 0.5, text, transform=ax.transAxes, ha="center", va="center")
