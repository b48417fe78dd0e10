"""What a split gives away to systems that do not listen: the floors beside every result."""

import jax
import numpy as np

from mfl_jax import metrics
from mfl_jax.data.batching import read_batches
from mfl_jax.data.prepared_dataset import Clips
from mfl_jax.frame_mask import frame_mask


def count_activity(clips: Clips, numbers: np.ndarray, scenes: int, events: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Counts of each scene its clips [shape=(S,)], its valid frames [shape=(S,)], and those in which each event is active
    [shape=(S, E)].
    """
    scene, frames, active = np.zeros(scenes, np.int64), np.zeros(scenes, np.int64), np.zeros((scenes, events), np.int64)
    for batch in read_batches(clips, numbers, 64):
        valid = frame_mask(batch["valid_frames"], batch["events"].shape[1]) & batch["clip_mask"][:, None]
        np.add.at(scene, batch["scene"], batch["clip_mask"])
        np.add.at(frames, batch["scene"], valid.sum(1))
        np.add.at(active, batch["scene"], (batch["events"] & valid[..., None]).sum(1))
    return scene, frames, active


def compute_floors(clips: Clips, numbers: np.ndarray, scenes: tuple[str, ...], events: tuple[str, ...]) -> dict:
    """What a split gives away to systems that do not listen.

    Returns:
      {"scene": {"majority": ...}, "event": {"all_off": ..., "always_on": ..., "oracle_scene": ...}}: the scores of always
      answering the most frequent scene; of no event ever; of all events always; and, knowing the true scene of each clip, of
      each event that is active in most frames of that scene, always (`detected` names them).
    """
    scene, frames, active = count_activity(clips, numbers, len(scenes), len(events))
    majority = int(scene.argmax())
    confusion = np.zeros((len(scenes), len(scenes)), np.int64)
    confusion[:, majority] = scene
    found = metrics.scene_ratios({"confusion": confusion})
    often = active * 2 > frames[:, None]
    rules = {"all_off": np.zeros_like(often), "always_on": np.ones_like(often), "oracle_scene": often}
    made = {
        "scene": {"majority": {"answer": scenes[majority], "micro_f": found["micro_f"], "macro_f": found["macro_f"]}},
        "event": {},
    }
    for name, detected in rules.items():
        counts = {key: np.zeros(len(events), np.int64) for key in ("tp", "fp", "fn")} | dict.fromkeys(
            ("substitutions", "deletions", "insertions", "active"), 0
        )
        for batch in read_batches(clips, numbers, 64):
            valid = frame_mask(batch["valid_frames"], batch["events"].shape[1]) & batch["clip_mask"][:, None]
            answer = np.broadcast_to(detected[batch["scene"]][:, None], batch["events"].shape)
            counts = jax.tree.map(np.add, counts, metrics.frame_counts(answer, batch["events"], valid))
        ratios = metrics.frame_ratios(counts)
        made["event"][name] = {key: ratios[key] for key in ("micro_f", "macro_f", "error_rate")}
    made["event"]["oracle_scene"]["detected"] = {
        name: [events[m] for m in np.flatnonzero(often[n])] for n, name in enumerate(scenes) if often[n].any()
    }
    return made
