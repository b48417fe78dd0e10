"""Where a model errs: a table of the clips of a prepared data set."""

import numpy as np
import pandas as pd

from mfl_jax import metrics
from mfl_jax.data.prepared_dataset import Dataset
from mfl_jax.inference.trained_model import TrainedModel
from mfl_jax.scoring import clip_scores


def clip_table(model: TrainedModel, dataset: Dataset, split: str = "evaluation") -> pd.DataFrame:
    """What a model made of each clip, and what it should have.

    Args:
      model: of `mfl_jax.load`. dataset: prepared, of the same classes and spectrograms. split: `evaluation` or `development`.

    Returns:
      A row a clip, in the order of the recordings, with `recording`, `clip_start_s` and `duration_s`. For scenes: `scene`,
      `predicted_scene`, `scene_right` and `scene_probability`, that of the true scene. For events, frame by frame at the
      threshold of the run: `event_f` (percent, NaN where there is nothing to detect and nothing was detected), and
      `missed_s` and `false_s`, seconds by event, dictionaries without the events that have none.

    Raises:
      InputError: the model was trained on other classes or spectrograms than the data set has.
    """
    clip_scores.check_classes(model, dataset)
    clips = dataset.read(split)
    hop_s, rows = model.mel.hop_s, []
    for number, labels, scene, event in clip_scores.clip_probabilities(model, clips, np.arange(len(clips))):
        row = {
            "recording": str(clips.recording[number]),
            "clip_start_s": float(clips.clip_start_s[number]),
            "duration_s": labels["valid_frames"] * hop_s,
        }
        if scene is not None:
            row["scene"], row["predicted_scene"] = model.scenes[labels["scene"]], model.scenes[int(scene.argmax())]
            row["scene_right"] = row["scene"] == row["predicted_scene"]
            row["scene_probability"] = float(scene[labels["scene"]])
        if event is not None:
            detected, active = event >= np.float32(model.config.threshold), labels["events"]
            counts = metrics.frame_counts(detected, active)
            row["event_f"] = metrics.frame_ratios(counts)["micro_f"] if (detected | active).any() else np.nan
            for name, key in (("missed_s", "fn"), ("false_s", "fp")):
                seconds = zip(model.events, counts[key] * hop_s, strict=True)
                row[name] = {label: round(float(value), 6) for label, value in seconds if value}
        rows.append(row)
    return pd.DataFrame(rows).sort_values(["recording", "clip_start_s"], ignore_index=True)
