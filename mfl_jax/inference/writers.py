"""Writes a prediction as a file, in the formats of other programs."""

import csv
import io
import json
import pathlib
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import numpy as np

from mfl_jax.errors import InputError
from mfl_jax.inference.prediction import Prediction
from mfl_jax.runtime import storage
from mfl_jax.runtime.installation import install_command

ROWS_AT_ONCE = 65_536
"""Frames per block of text, which bounds memory."""


def _to_field(text: str) -> str:
    """Replaces tabs and line breaks, which would end a field or a row of a tab-separated table."""
    return " ".join(text.split())


def _to_row(*fields: str) -> str:
    """Joins fields to a row that the csv module, Excel, pandas and `mfl_jax.data.event_rows` read."""
    row = io.StringIO()
    csv.writer(row, delimiter="\t", lineterminator="\n").writerow(map(_to_field, fields))
    return row.getvalue()


def write_events_tsv(prediction: Prediction, file: pathlib.Path) -> None:
    """Writes one row per event: `filename onset offset event_label confidence`, times in seconds.

    sed_eval, dcase_util and DESED's tools read it.
    """
    rows = [_to_row("filename", "onset", "offset", "event_label", "confidence")]
    for event in prediction.detected:
        times = f"{event.onset_s:.6f}", f"{event.offset_s:.6f}"
        rows.append(_to_row(prediction.recording, *times, event.label, f"{event.confidence:.6f}"))
    storage.atomic_write(file, "".join(rows))


def write_audacity(prediction: Prediction, file: pathlib.Path) -> None:
    """Writes a label track for Audacity: one row `onset offset label` per event, times in seconds, no header.

    Audacity shows labels as they are in the file, so a label is quoted only if it starts with a quote.
    """
    rows = []
    for event in prediction.detected:
        times, label = (f"{event.onset_s:.6f}", f"{event.offset_s:.6f}"), _to_field(event.label)
        rows.append(_to_row(*times, label) if label.startswith('"') else "\t".join((*times, label)) + "\n")
    storage.atomic_write(file, "".join(rows))


RAVEN_HEADER = (
    "Selection", "View", "Channel", "Begin Time (s)", "End Time (s)", "Low Freq (Hz)", "High Freq (Hz)", "Annotation",
    "Confidence",
)  # fmt: skip


def write_raven(prediction: Prediction, file: pathlib.Path) -> None:
    """Writes a selection table for Raven: one numbered row per event, over the frequencies that the model sees."""
    rows = [_to_row(*RAVEN_HEADER)]
    low_hz, high_hz = prediction.frequency_range_hz
    for number, event in enumerate(prediction.detected, 1):
        box = (f"{value:.6f}" for value in (event.onset_s, event.offset_s, low_hz, high_hz))
        rows.append(_to_row(str(number), "Spectrogram 1", "1", *box, event.label, f"{event.confidence:.6f}"))
    storage.atomic_write(file, "".join(rows))


def write_json(prediction: Prediction, file: pathlib.Path) -> None:
    """Writes scene probabilities, of the recording and of each window, and events with their confidence."""

    def to_probabilities(values: np.ndarray) -> dict[str, float]:
        return {scene: round(float(value), 6) for scene, value in zip(prediction.scenes, values, strict=True)}

    content: dict[str, Any] = {
        "recording": prediction.recording,
        "duration_s": prediction.duration_s,
        "hop_s": prediction.hop_s,
        "overlap": prediction.overlap,
    }
    if prediction.warning:
        content["warning"] = prediction.warning
    if prediction.scenes:
        content["scene"] = {"label": prediction.scene_label, "probabilities": to_probabilities(prediction.scene)}
        content["scene_over_time"] = [
            {"onset_s": round(float(onset), 6), "offset_s": round(float(offset), 6), "probabilities": to_probabilities(values)}
            for onset, offset, values in zip(
                prediction.window_start_s, prediction.window_end_s, prediction.window_scenes, strict=True
            )
        ]
    if prediction.events:
        content["events"] = [
            {
                "label": event.label, "onset_s": event.onset_s, "offset_s": event.offset_s,
                "confidence": round(event.confidence, 6),
            }
            for event in prediction.detected
        ]  # fmt: skip
    storage.atomic_write(file, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def check_packages(formats: Sequence[str]) -> None:
    """Checks that the packages of some formats are installed, before any recording is read.

    Raises:
      InputError: a package is missing.
    """
    if "jams" in formats:
        _import_jams()


def _import_jams() -> ModuleType:
    try:
        import jams
    except ModuleNotFoundError as error:
        raise InputError(f"{error.name} is not installed, but JAMS files need it: {install_command('jams')}") from None
    return jams


def write_jams(prediction: Prediction, file: pathlib.Path) -> None:
    """Writes a JAMS file (Humphrey et al. 2014): events as `segment_open`, the scene of each window as `tag_open`.

    Raises:
      InputError: the package jams is not installed.
    """
    jams = _import_jams()
    document = jams.JAMS()
    document.file_metadata.duration = prediction.duration_s
    document.file_metadata.title = prediction.recording
    metadata = jams.AnnotationMetadata(data_source="program", annotation_tools="mfl_jax")
    if prediction.events:
        events = jams.Annotation("segment_open", duration=prediction.duration_s, annotation_metadata=metadata)
        for event in prediction.detected:
            length = event.offset_s - event.onset_s
            events.append(time=event.onset_s, duration=length, value=event.label, confidence=event.confidence)
        document.annotations.append(events)
    if prediction.scenes:
        scenes = jams.Annotation("tag_open", duration=prediction.duration_s, annotation_metadata=metadata)
        windows = zip(prediction.window_start_s, prediction.window_end_s, prediction.window_scenes, strict=True)
        for start, end, values in windows:
            best = int(values.argmax())
            scenes.append(
                time=float(start), duration=float(end - start), value=prediction.scenes[best], confidence=float(values[best])
            )  # fmt: skip
        document.annotations.append(scenes)
    with storage.atomic_path(file) as part:
        document.save(str(part), fmt="jams")


def write_scores_tsv(prediction: Prediction, file: pathlib.Path) -> None:
    """Writes one row per frame: `onset offset` and the score of each event, as sed_scores_eval reads it."""
    frames, hop_s = len(prediction.frame_scores), prediction.hop_s
    with storage.atomic_path(file) as part, part.open("w", encoding="utf-8") as out:
        out.write(_to_row("onset", "offset", *prediction.events))
        for first in range(0, frames, ROWS_AT_ONCE):
            scores = prediction.frame_scores[first : first + ROWS_AT_ONCE]
            onset = np.arange(first, first + len(scores)) * hop_s
            # The last frame ends with the recording.
            offset = np.minimum(onset + hop_s, max(prediction.duration_s, 0)) if frames else onset
            np.savetxt(out, np.column_stack([onset, offset, scores]), fmt="%.6f", delimiter="\t")


def write_npz(prediction: Prediction, file: pathlib.Path) -> None:
    """Writes the arrays of a `Prediction` under the names of its attributes, and its events as `event_onset_s`, `event_offset_s`,
    `event_label` and `event_confidence`. The file holds no pickles.
    """
    arrays: dict[str, Any] = {
        name: np.asarray(getattr(prediction, name))
        for name in ("scene", "window_start_s", "window_end_s", "window_scenes", "frame_scores", "duration_s", "hop_s")
    }
    if prediction.clip_scores is not None:
        arrays["clip_scores"] = np.asarray(prediction.clip_scores)
    for name in ("onset_s", "offset_s", "label", "confidence"):
        arrays[f"event_{name}"] = np.asarray([getattr(event, name) for event in prediction.detected])
    arrays |= {"scenes": np.asarray(prediction.scenes, str), "events": np.asarray(prediction.events, str)}
    arrays["event_label"] = arrays["event_label"].astype(str)  # even without events
    with storage.atomic_path(file) as part, part.open("wb") as out:
        np.savez_compressed(out, **arrays)


FORMATS: dict[str, tuple[Callable[[Prediction, pathlib.Path], None], str]] = {
    "events": (write_events_tsv, ".tsv"),
    "json": (write_json, ".json"),
    "audacity": (write_audacity, ".txt"),
    "jams": (write_jams, ".jams"),
    "raven": (write_raven, ".txt"),
    "scores": (write_scores_tsv, ".tsv"),
    "npz": (write_npz, ".npz"),
}
"""Writer and file suffix of each format. The name of a format is also the name of its folder."""
