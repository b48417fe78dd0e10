"""Writes predictions in the forms that other programs read."""

import csv
import io
import json
import pathlib
from collections.abc import Callable

import numpy as np

from mfl_jax.errors import InputError
from mfl_jax.inference.prediction import Prediction
from mfl_jax.runtime import storage

ROWS_AT_ONCE = 65_536
"""Frames that are turned into text together."""


def _cell(text: str) -> str:
    """A text as a field of a tab-separated table: without what ends a field or a row."""
    return " ".join(text.split())


def events_tsv(prediction: Prediction, file: pathlib.Path) -> None:
    """The events, a row each: `filename onset offset event_label`, as sed_eval and DESED's tools read it. Seconds."""
    text = io.StringIO()
    table = csv.writer(text, delimiter="\t", lineterminator="\n")
    table.writerow(("filename", "onset", "offset", "event_label"))
    for event in prediction.detected:
        times = (f"{event.onset_s:.6f}", f"{event.offset_s:.6f}")
        table.writerow((_cell(prediction.recording), *times, _cell(event.label)))
    storage.atomic_write(file, text.getvalue())


def audacity(prediction: Prediction, file: pathlib.Path) -> None:
    """A label track for Audacity: `onset offset label`, without a header. Seconds."""
    rows = [f"{event.onset_s:.6f}\t{event.offset_s:.6f}\t{_cell(event.label)}\n" for event in prediction.detected]
    storage.atomic_write(file, "".join(rows))


def as_json(prediction: Prediction, file: pathlib.Path) -> None:
    """Scene probabilities, of the recording and of each window, and the events with their confidence."""

    def scenes(values):
        return {scene: round(float(value), 6) for scene, value in zip(prediction.scenes, values, strict=True)}

    content = {
        "recording": prediction.recording,
        "duration_s": prediction.duration_s,
        "hop_s": prediction.hop_s,
        "overlap": prediction.overlap,
    }
    if prediction.scenes:
        content["scene"] = {"label": prediction.scene_label, "probabilities": scenes(prediction.scene)}
        content["scene_over_time"] = [
            {"onset_s": round(float(onset), 6), "offset_s": round(float(offset), 6), "probabilities": scenes(values)}
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


def as_jams(prediction: Prediction, file: pathlib.Path) -> None:
    """A JAMS file (Humphrey et al. 2014): events as `segment_open`, scenes of the windows as `tag_open`, with confidences.

    Raises:
      InputError: the package jams is missing.
    """
    try:
        import jams
    except ModuleNotFoundError as error:
        raise InputError(f"{error.name} is missing: pip install -e '.[jams]' brings what writes JAMS files") from None
    made = jams.JAMS()
    made.file_metadata.duration = prediction.duration_s
    made.file_metadata.title = prediction.recording
    about = jams.AnnotationMetadata(data_source="program", annotation_tools="mfl_jax")
    if prediction.events:
        events = jams.Annotation("segment_open", duration=prediction.duration_s, annotation_metadata=about)
        for event in prediction.detected:
            length = event.offset_s - event.onset_s
            events.append(time=event.onset_s, duration=length, value=event.label, confidence=event.confidence)
        made.annotations.append(events)
    if prediction.scenes:
        over_time = jams.Annotation("tag_open", duration=prediction.duration_s, annotation_metadata=about)
        windows = zip(prediction.window_start_s, prediction.window_end_s, prediction.window_scenes, strict=True)
        for onset, offset, values in windows:
            best = int(values.argmax())
            over_time.append(
                time=float(onset), duration=float(offset - onset), value=prediction.scenes[best], confidence=float(values[best])
            )
        made.annotations.append(over_time)
    with storage.atomic_path(file) as part:
        made.save(str(part), fmt="jams")


def scores_tsv(prediction: Prediction, file: pathlib.Path) -> None:
    """The score of each event in each frame: `onset offset` and a column an event, as sed_scores_eval reads it."""
    frames, hop_s = len(prediction.frame_scores), prediction.hop_s
    with storage.atomic_path(file) as part, part.open("w", encoding="utf-8") as out:
        out.write("\t".join(["onset", "offset", *map(_cell, prediction.events)]) + "\n")
        for first in range(0, frames, ROWS_AT_ONCE):
            scores = prediction.frame_scores[first : first + ROWS_AT_ONCE]
            onset = np.arange(first, first + len(scores)) * hop_s
            # The last frame ends with the recording.
            offset = np.minimum(onset + hop_s, max(prediction.duration_s, 0)) if frames else onset
            np.savetxt(out, np.column_stack([onset, offset, scores]), fmt="%.6f", delimiter="\t")


def npz(prediction: Prediction, file: pathlib.Path) -> None:
    """All arrays of a `Prediction`, by the names of its attributes, and the events as `event_onset_s`, `event_offset_s`,
    `event_label`, `event_confidence`; no pickles.
    """
    arrays = {
        name: np.asarray(getattr(prediction, name))
        for name in ("scene", "window_start_s", "window_end_s", "window_scenes", "frame_scores", "duration_s", "hop_s")
    }
    if prediction.clip_scores is not None:
        arrays["clip_scores"] = np.asarray(prediction.clip_scores)
    for name in ("onset_s", "offset_s", "label", "confidence"):
        arrays[f"event_{name}"] = np.asarray([getattr(event, name) for event in prediction.detected])
    names = {"scenes": np.asarray(prediction.scenes, str), "events": np.asarray(prediction.events, str)}
    arrays["event_label"] = arrays["event_label"].astype(str)  # also where there is no event
    with storage.atomic_path(file) as part, part.open("wb") as out:
        np.savez_compressed(out, **arrays, **names)


FORMATS: dict[str, tuple[Callable[[Prediction, pathlib.Path], None], str]] = {
    "events": (events_tsv, ".tsv"),
    "json": (as_json, ".json"),
    "audacity": (audacity, ".txt"),
    "jams": (as_jams, ".jams"),
    "scores": (scores_tsv, ".tsv"),
    "npz": (npz, ".npz"),
}
"""Name of each format, which is also that of its folder: what writes a prediction to a file, and the suffix of the file."""
