"""Shows where a model errs: a table of the clips of a prepared data set."""

import numpy as np
import pandas as pd

from mfl_jax import metrics
from mfl_jax.data.prepared_dataset import Dataset
from mfl_jax.inference.trained_model import TrainedModel
from mfl_jax.scoring import clip_scores


def clip_table(model: TrainedModel, dataset: Dataset, split: str = "evaluation") -> pd.DataFrame:
    """Compares the prediction for each clip with its labels.

    Args:
      model: the model, from `mfl_jax.load`.
      dataset: prepared data set with the classes and spectrograms of the model.
      split: `evaluation` or `development`.

    Returns:
      One row per clip, sorted by recording and time. The columns of a task that was not trained are missing.
        `recording`, `clip_start_s`, `duration_s`;
        `scene`: the true scene; None if it is not annotated;
        `predicted_scene`: the most probable scene;
        `scene_right`: whether they agree; None without a true scene;
        `scene_probability`: probability of the true scene; NaN without one;
        `scene_counts`: whether the clip counts in scene scores; False if its scene is not annotated or it is too short
          (`config.min_clip_share` of the run);
        `event_f`: micro F of the frames at the threshold of the run, in percent; NaN if no event is active or detected, or events
          are not annotated;
        `missed_s`, `false_s`: dictionaries from event to seconds of missed and false detections, without events that have none;
          None if events are not annotated.

    Raises:
      InputError: the model was trained on other classes or spectrograms, or the split does not exist.
    """
    clip_scores.check_classes(model, dataset)
    clips = dataset.read(split, min_clip_share=model.config.min_clip_share)
    hop_s, rows = model.mel.hop_s, []
    for number, labels, scene, event in clip_scores.compute_clip_probabilities(model, clips, np.arange(len(clips))):
        row = {
            "recording": str(clips.recording[number]),
            "clip_start_s": float(clips.clip_start_s[number]),
            "duration_s": labels["valid_frames"] * hop_s,
        }
        if scene is not None:
            row |= _compare_scene(model, labels["scene"], scene) | {"scene_counts": labels["scene_mask"]}
        if event is not None:
            row |= _compare_events(model, labels["events"] if labels["event_mask"] else None, event)
        rows.append(row)
    return pd.DataFrame(rows).sort_values(["recording", "clip_start_s"], ignore_index=True)


def _compare_scene(model: TrainedModel, true_scene: int, probabilities: np.ndarray) -> dict:
    predicted = model.scenes[int(probabilities.argmax())]
    if true_scene < 0:
        return {"scene": None, "predicted_scene": predicted, "scene_right": None, "scene_probability": np.nan}
    scene = model.scenes[true_scene]
    return {
        "scene": scene,
        "predicted_scene": predicted,
        "scene_right": scene == predicted,
        "scene_probability": float(probabilities[true_scene]),
    }


def _compare_events(model: TrainedModel, active: np.ndarray | None, scores: np.ndarray) -> dict:
    if active is None:
        return {"event_f": np.nan, "missed_s": None, "false_s": None}
    detected = scores >= np.float32(model.config.threshold)
    counts = metrics.frame_counts(detected, active)
    columns: dict = {"event_f": metrics.frame_ratios(counts)["micro_f"] if (detected | active).any() else np.nan}
    for name, key in (("missed_s", "fn"), ("false_s", "fp")):
        seconds = zip(model.events, counts[key] * model.mel.hop_s, strict=True)
        columns[name] = {label: round(float(value), 6) for label, value in seconds if value}
    return columns
