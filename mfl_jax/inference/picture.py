"""One picture of a recording: its spectrogram, the scores of its events, the events, and its scenes, over time.

Recordings of any length become a bounded number of columns while they are read. A column shows the maximum over its frames,
of the log-mel energy as of a score, so that a short event stays visible in a long recording.
"""

import io
import math
import pathlib
import warnings
from collections.abc import Iterable, Sequence

import librosa
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator, MultipleLocator

from mfl_jax import plot_style
from mfl_jax.data import audio_reader, mel_spectrogram
from mfl_jax.data.annotation import Event
from mfl_jax.data.mel_spectrogram import MelConfig
from mfl_jax.errors import InputError
from mfl_jax.inference.prediction import Prediction
from mfl_jax.runtime import storage

COLUMNS = 2000
"""At most so many columns in a picture."""
ROWS = 100
"""At most so many events in a picture."""
FAINT = 0.1
"""A class whose score never reaches this is left out, unless it was detected or is in the reference."""
RANGE_DB = 80.0
"""Energies further below the loudest ones than this look alike."""
DB = 10 / math.log(10)
"""Decibels in a unit of the natural logarithm of a power."""
FRAMES_AT_ONCE = 8192
TICKS_HZ = (50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000)
STEPS_S = (10, 20, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800)
REFERENCE = plot_style.COLOURS[1]
DETECTED = plot_style.COLOURS[0]


def reduce_columns(pieces: Iterable[np.ndarray], frames: int, columns: int) -> np.ndarray:
    """The maximum over the frames of each column, of values that come piece by piece.

    Frame t belongs to column t * C // frames, with C the smaller of `columns` and `frames`.

    Args:
      pieces: consecutive arrays [shape=(n, K)] of any lengths n; what they hold beyond `frames` counts to the last column.
      frames: how many frames there are in all. columns: the most columns wanted.

    Returns:
      float32 [shape=(C, K)]; -inf in columns that no frame came for, K = 0 where no piece came.
    """
    columns = min(columns, frames)
    highest, done = None, 0
    for piece in pieces:
        if highest is None:
            highest = np.full((columns, piece.shape[1]), -np.inf, np.float32)
        column = np.minimum(np.arange(done, done + len(piece)) * columns // frames, columns - 1)
        starts = np.flatnonzero(np.diff(column, prepend=-1))
        if piece.size:
            touched = column[starts]
            highest[touched] = np.maximum(highest[touched], np.maximum.reduceat(piece, starts, axis=0))
        done += len(piece)
    return np.zeros((columns, 0), np.float32) if highest is None else highest


def spectrogram_columns(
    prediction: Prediction, audio_file: str | pathlib.Path, mel: MelConfig, columns: int = COLUMNS
) -> np.ndarray:
    """The log-mel spectrogram of a recording, read once and reduced to at most `columns` columns.

    Returns:
      float32 [shape=(C, mel_bins)], natural logarithm of the power.

    Raises:
      InputError: the file can't be read, or is not as long as the prediction says.
    """
    frames = max(1, mel.frames(round(prediction.duration_s * mel.sample_rate_hz)))
    seen = 0

    def counted():
        nonlocal seen
        for piece in mel_spectrogram.stream_log_mel(audio_reader.stream_mono(audio_file, mel.sample_rate_hz), mel):
            seen += len(piece)
            yield piece

    highest = reduce_columns(counted(), frames, columns)
    if abs(seen - frames) > max(2, 0.01 * frames):
        raise InputError(
            f"{audio_file}: lasts {seen * mel.hop_s:.2f} s and the prediction {prediction.duration_s:.2f} s; give the recording "
            "that the prediction was made of"
        )
    return np.maximum(highest, np.float32(math.log(mel.floor)))


def score_columns(prediction: Prediction, columns: int = COLUMNS) -> np.ndarray:
    """The scores of all events, reduced to at most `columns` columns: float32 [shape=(C, E)]; (0, 0) without events."""
    scores = prediction.frame_scores
    if not prediction.events or not len(scores):
        return np.zeros((0, len(prediction.events)), np.float32)
    pieces = (np.asarray(scores[start : start + FRAMES_AT_ONCE]) for start in range(0, len(scores), FRAMES_AT_ONCE))
    return reduce_columns(pieces, len(scores), columns)


def scene_columns(prediction: Prediction, columns: int = COLUMNS) -> np.ndarray:
    """The probability of each scene over time: in each of `columns` equal parts of the recording the mean over the windows there.

    Returns:
      float32 [shape=(columns, S)]; (columns, 0) without scenes.
    """
    if not prediction.scenes:
        return np.zeros((columns, 0), np.float32)
    edges_s = np.linspace(0, prediction.duration_s, columns + 1)
    windows = len(prediction.window_scenes)
    # Windows first to last - 1 overlap the column: those that end after its start and begin before its end.
    first = np.minimum(np.searchsorted(prediction.window_end_s, edges_s[:-1], side="right"), windows - 1)
    last = np.maximum(np.searchsorted(prediction.window_start_s, edges_s[1:], side="left"), first + 1)
    sums = np.concatenate([np.zeros((1, len(prediction.scenes))), np.cumsum(prediction.window_scenes, axis=0, dtype=np.float64)])
    return ((sums[last] - sums[first]) / (last - first)[:, None]).astype(np.float32)


def shown_events(prediction: Prediction, scores: np.ndarray, reference: Sequence[Event] | None) -> list[str]:
    """The events worth a row: those that reach `FAINT`, were detected or are in the reference.

    Args:
      scores: of `score_columns`. reference: the true events, or None.

    Returns:
      Labels in the model's order, then those that the reference alone knows.
    """
    peaks = scores.max(0) if len(scores) else np.zeros(len(prediction.events))
    named = dict.fromkeys([event.label for event in prediction.detected] + [event.label for event in reference or ()])
    shown = [label for label, peak in zip(prediction.events, peaks, strict=True) if peak >= FAINT or label in named]
    return shown + [label for label in named if label not in prediction.events]


def energy_limits(log_mel: np.ndarray) -> tuple[float, float]:
    """The log-mel energies between which colours run: without outliers, `RANGE_DB` at most, and never equal."""
    low, high = np.percentile(log_mel, (2, 99.9)) if log_mel.size else (0.0, 1.0)
    low = max(low, high - RANGE_DB / DB)
    return float(low), float(max(high, low + 1))  # so that silence is dark


def bin_of(hz: float, mel: MelConfig) -> float:
    """Where a frequency lies among the mel bins: i at the centre of bin i, between them by frequency."""
    centres_hz = librosa.mel_frequencies(n_mels=mel.mel_bins + 2, fmin=mel.low_hz, fmax=mel.high_hz, htk=False)
    return float(np.interp(hz, centres_hz, np.arange(-1, mel.mel_bins + 1)))


def ticks_hz(mel: MelConfig, apart: float) -> list[tuple[int, float]]:
    """Round frequencies within the bands, each with its place among the mel bins, at least `apart` of their range apart."""
    ticks, before = [], -math.inf
    for hz in TICKS_HZ:
        place = bin_of(hz, mel)
        if mel.low_hz <= hz <= mel.high_hz and -0.5 <= place <= mel.mel_bins - 0.5 and place - before >= apart * mel.mel_bins:
            ticks.append((hz, place))
            before = place
    return ticks


def clock(seconds: float) -> str:
    """m:ss, or h:mm:ss from an hour on; fractions are left out."""
    minutes, rest = divmod(int(seconds + 1e-6), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"


def _text(name: str, longest: int = 32) -> str:
    """A name as it can be drawn: no mathematics, no line breaks, cut where it is too long."""
    name = " ".join(name.encode("utf-8", "replace").decode().split())
    return (name if len(name) <= longest else name[: longest - 1] + "…").replace("$", r"\$")


def figure(
    prediction: Prediction,
    log_mel: np.ndarray,
    scores: np.ndarray,
    scenes: np.ndarray,
    mel: MelConfig,
    *,
    reference: Sequence[Event] | None = None,
) -> Figure:
    """Draws the picture; the panels have the labels `spectrogram`, `scores`, `events` and `scenes`, where there is such data.

    Args:
      prediction: what was heard. Of its scores only how many there are is read.
      log_mel: of `spectrogram_columns`. scores: of `score_columns`. scenes: of `scene_columns`.
      mel: the settings of the spectrogram. reference: the true events, or None.
    """
    named = {event.label for event in prediction.detected} | {event.label for event in reference or ()}
    shown = shown_events(prediction, scores, reference)
    if len(shown) > ROWS:
        peaks = dict(zip(prediction.events, scores.max(0) if len(scores) else (), strict=False))
        kept = set(sorted(shown, key=lambda label: (label in named, peaks.get(label, 0)), reverse=True)[:ROWS])
        shown = [label for label in shown if label in kept]
    known = [label for label in shown if label in prediction.events]
    left_out = len(prediction.events) - len(known)
    rows = known if len(scores) else []
    lanes = [label for label in shown if label in named]
    panels = {"spectrogram": 2.4}
    if prediction.events:
        panels["scores"] = 0.17 * max(2, len(rows))
    if prediction.events or lanes:
        panels["events"] = (0.28 if reference is not None else 0.18) * max(2, len(lanes))
    if prediction.scenes:
        panels["scenes"] = max(1.3, 0.17 * min(len(prediction.scenes), 9))
    drawn = Figure(figsize=(14, sum(panels.values()) + 0.35 * len(panels) + 1.0), layout="constrained")
    drawn.get_layout_engine().set(h_pad=0.04, hspace=0.01)
    axes = drawn.subplots(len(panels), 1, sharex=True, squeeze=False, height_ratios=list(panels.values()))[:, 0]
    duration_s = prediction.duration_s
    for ax, name in zip(axes, panels, strict=True):
        ax.set_label(name)
        ax.grid(False)
        ax.set_xlim(0, duration_s)
        if name == "spectrogram":
            _draw_spectrogram(ax, prediction, log_mel, mel)
        elif name == "scores":
            _draw_scores(ax, prediction, scores, rows, left_out)
        elif name == "events":
            _draw_events(ax, prediction, lanes, reference)
        else:
            _draw_scenes(ax, prediction, scenes)
    _time_axis(axes[-1], duration_s)
    heard = [] if prediction.scene_label is None else [f"{_text(prediction.scene_label)} ({prediction.scene.max():.2f})"]
    heard += [f"{len(prediction.detected)} event{'s' * (len(prediction.detected) != 1)} detected"] if prediction.events else []
    heard += [f"{duration_s:.3g} s" if duration_s < 60 else clock(duration_s)]
    name = prediction.recording if len(prediction.recording) <= 90 else "…" + prediction.recording[-89:]
    drawn.suptitle(f"{_text(name, 90)}\n{', '.join(heard)}", x=0.01, ha="left", fontsize=11)
    return drawn


def _draw_spectrogram(ax, prediction, log_mel, mel):
    low, high = energy_limits(log_mel)
    frames = max(1, mel.frames(round(prediction.duration_s * mel.sample_rate_hz)))
    extent = (0, frames * mel.hop_s, -0.5, mel.mel_bins - 0.5)
    image = ax.imshow(
        DB * (log_mel.T - high), aspect="auto", origin="lower", cmap="magma", vmin=DB * (low - high), vmax=0,
        extent=extent, interpolation="nearest",
    )  # fmt: skip
    ticks = ticks_hz(mel, 0.06)
    ax.set_yticks([place for _, place in ticks], [f"{hz}" if hz < 1000 else f"{hz // 1000}k" for hz, _ in ticks])
    ax.set(ylabel="Hz")
    much = f", maximum over {prediction.duration_s / len(log_mel):.2g} s a column" if frames > len(log_mel) else ""
    ax.set_title(f"Log-mel spectrogram{much}", loc="left", fontsize=10)
    ax.figure.colorbar(image, cax=ax.inset_axes((1.01, 0, 0.012, 1)), label="dB")


def _draw_scores(ax, prediction, scores, rows, left_out):
    ax.set_title("Scores" + _left_out(left_out, len(rows)), loc="left", fontsize=10)
    if not rows:
        _empty(ax, "nothing to show")
        return
    columns = [prediction.events.index(label) for label in rows]
    extent = (0, len(prediction.frame_scores) * prediction.hop_s, len(rows) - 0.5, -0.5)
    image = ax.imshow(
        scores[:, columns].T, aspect="auto", cmap="Blues", vmin=0, vmax=1, extent=extent, interpolation="nearest"
    )  # fmt: skip
    ax.set_yticks(range(len(rows)), [_text(label) for label in rows], fontsize=8)
    ax.set_yticks(np.arange(0.5, len(rows) - 1), minor=True)
    ax.grid(axis="y", which="minor")
    ax.tick_params(which="minor", length=0)
    height = min(1, 12 / len(rows))  # a bar as long as a hundred rows says no more than a short one
    ax.figure.colorbar(image, cax=ax.inset_axes((1.01, 1 - height, 0.012, height)), ticks=(0, 0.5, 1), label="score")


def _left_out(events, rows):
    if not events:
        return ""
    why = f"there is room for {ROWS} rows" if rows == ROWS else f"they stay below {FAINT:g}"
    return f"; {events} event{'s' * (events != 1)} left out ({why})"


def _draw_events(ax, prediction, lanes, reference):
    ax.set_title("Events", loc="left", fontsize=10)
    if not lanes:
        _empty(ax, "none")
        return
    place = {label: index for index, label in enumerate(lanes)}
    outline = 1.2 if len(reference or ()) < 200 else 0.6
    upper, height = (-0.4, 0.36) if reference is not None else (-0.32, 0.64)
    for kind, events, top, looks in (
        ("detected", prediction.detected, upper, {"facecolors": DETECTED, "edgecolors": DETECTED, "linewidth": 0.6}),
        ("reference", reference or (), 0.04, {"facecolors": "none", "edgecolors": REFERENCE, "linewidth": outline}),
    ):
        for label in lanes:
            spans = [(event.onset_s, event.offset_s - event.onset_s) for event in events if event.label == label]
            if spans:
                ax.broken_barh(spans, (place[label] + top, height), label=kind, gid=f"{kind} {label}", **looks)
    ax.set_yticks(range(len(lanes)), [_text(label) for label in lanes], fontsize=8)
    ax.set_yticks(np.arange(0.5, len(lanes) - 1), minor=True)
    ax.grid(axis="y", which="minor")
    ax.tick_params(which="minor", length=0)
    ax.set_ylim(len(lanes) - 0.5, -0.5)
    handles = [Patch(facecolor=DETECTED, edgecolor=DETECTED, label="detected")] if prediction.events else []
    if reference is not None:
        handles.append(Patch(facecolor="none", edgecolor=REFERENCE, linewidth=1.2, label="reference"))
    ax.legend(handles=handles, loc="upper left", bbox_to_anchor=(1, 1), fontsize=8)


def _draw_scenes(ax, prediction, scenes):
    order = sorted(range(len(prediction.scenes)), key=lambda index: -scenes[:, index].mean())
    grey = plot_style.COLOURS[7]
    colours = [colour for colour in plot_style.COLOURS if colour != grey]
    # The model's order, so that a scene has the same colour in every picture of a model with few scenes.
    shown = sorted(order[: len(colours)])
    parts = [scenes[:, index] for index in shown]
    names = [_text(prediction.scenes[index]) for index in shown]
    colours = colours[: len(shown)]
    if len(order) > len(shown):
        parts.append(scenes[:, order[len(shown) :]].sum(1))
        names.append(f"{len(order) - len(shown)} others")
        colours.append(grey)
    edges_s = np.linspace(0, prediction.duration_s, len(scenes) + 1)
    # A step holds to the next edge; the last value is drawn twice, to reach the end.
    steps = [np.append(part, part[-1]) for part in parts]
    ax.stackplot(edges_s, *steps, step="post", colors=colours, labels=names, linewidth=0)
    ax.set_ylim(0, 1)
    ax.set_yticks([0, 0.5, 1])
    ax.set_ylabel("probability")
    ax.set_title("Scenes", loc="left", fontsize=10)
    # From top to bottom as the areas lie.
    ax.legend(reverse=True, loc="upper left", bbox_to_anchor=(1, 1.04), fontsize=8, labelspacing=0.2)


def _empty(ax, text):
    ax.set_yticks([])
    ax.text(0.5, 0.5, text, transform=ax.transAxes, ha="center", va="center")


def _time_axis(ax, duration_s):
    if duration_s < 60:
        ax.xaxis.set_major_locator(MaxNLocator(14, steps=(1, 2, 5, 10)))
        ax.set_xlabel("seconds")
        return
    step_s = next((step for step in STEPS_S if duration_s / step <= 14), STEPS_S[-1])
    ax.xaxis.set_major_locator(MultipleLocator(step_s))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda seconds, _: clock(seconds)))
    ax.set_xlabel("minutes:seconds" if duration_s < 3600 else "hours:minutes:seconds")


def draw(
    prediction: Prediction,
    audio_file: str | pathlib.Path,
    mel: MelConfig,
    out_png: str | pathlib.Path,
    *,
    reference: Sequence[Event] | None = None,
) -> None:
    """Writes the picture of a recording as PNG, for a white page; the file is there whole or not at all.

    Args:
      prediction: what was heard. audio_file: the recording. mel: the settings of the model's spectrograms.
      out_png: the file to write. reference: the true events, to be drawn below the detected ones, or None.

    Raises:
      InputError: the recording can't be read or is another one, or the picture can't be written.
    """
    log_mel = spectrogram_columns(prediction, audio_file, mel)
    with plot_style.theme("light"), warnings.catch_warnings():
        # The font lacks signs of many scripts and draws a box for them.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        drawn = figure(
            prediction, log_mel, score_columns(prediction), scene_columns(prediction), mel, reference=reference
        )  # fmt: skip
        encoded = io.BytesIO()
        drawn.savefig(encoded, format="png", dpi=150, facecolor="white", metadata={"Software": None})
    out_png = pathlib.Path(out_png)
    try:
        with storage.atomic_path(out_png) as part:
            part.write_bytes(encoded.getbuffer())
    except OSError as error:
        raise InputError(f"{out_png}: can't be written ({error.strerror}); name another place") from None
