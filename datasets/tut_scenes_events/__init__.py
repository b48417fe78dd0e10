"""The paper's data: parts of TUT Acoustic Scenes 2016/2017 and TUT Sound Events 2016/2017 with common labels.

    manual_dir/
      meta/meta_development.txt, meta/meta_evaluation.txt
      crossvaridation/meta_fold01_development.txt ... meta_fold04_evaluation.txt     (sic)
      TUT-acoustic-scenes-2016-development/audio/...                                 (and six more folders)

The label lists come from https://github.com/KeisukeImoto/metadata_SEDandASC01. `fetch.py` in this folder downloads, checks and
unpacks the audio.

Configs: `full` (development and evaluation), and `fold1` to `fold4` for cross-validation within development: their `evaluation`
split has the recordings that the fold holds out.
"""

import dataclasses
from typing import ClassVar

from mfl_jax.data import label_list
from mfl_jax.data.builder import SPLITS, AnnotatedRecordings, AudioConfig
from mfl_jax.data.folds import FOLDS

SCENES = ("city_center", "home", "office", "residential_area")
EVENTS = (
    "(object) banging", "(object) impact", "(object) rustling", "(object) snapping", "(object) squeaking",
    "bird singing", "brakes squeaking", "breathing", "car", "children", "cupboard", "cutlery", "dishes", "drawer", "fan",
    "glass jingling", "keyboard typing", "large vehicle", "mouse clicking", "mouse wheeling", "people talking",
    "people walking", "washing dishes", "water tap running", "wind blowing",
)  # fmt: skip
# Older copies of the lists, generated directly from the TUT annotations, use other names for some events.
RENAMED_EVENTS = {
    "object banging": "(object) banging",
    "object impact": "(object) impact",
    "object rustling": "(object) rustling",
    "object snapping": "(object) snapping",
    "object squeaking": "(object) squeaking",
    "people speaking": "people talking",
}


@dataclasses.dataclass(eq=False)
class TutConfig(AudioConfig):
    """A config of the paper's data.

    Attributes:
      fold: cross-validation fold, 1 to 4; None for the paper's splits.
    """

    fold: int | None = None


class Builder(AnnotatedRecordings):
    """4 scenes, 25 events, 266 minutes."""

    name = "tut_scenes_events"
    BUILDER_CONFIGS: ClassVar = [TutConfig(name="full"), *(TutConfig(name=f"fold{n}", fold=n) for n in range(1, FOLDS + 1))]
    SCENES = SCENES
    EVENTS = EVENTS
    RENAMED_EVENTS = RENAMED_EVENTS
    ABOUT = "Parts of TUT Acoustic Scenes 2016/2017 and TUT Sound Events 2016/2017 with scene and event labels."

    def find_label_lists(self):
        """Returns the label lists of the paper's splits or of a fold."""
        if (fold := self.builder_config.fold) is None:
            return super().find_label_lists()
        return {split: self._fold_list(fold, split) for split in SPLITS}

    def _fold_list(self, fold, split):
        return self.root / "crossvaridation" / f"meta_fold{fold:02d}_{split}.txt"

    def find_fold_lists(self):
        """Returns the published lists of the recordings that each fold holds out."""
        return {f"fold{fold}": self._fold_list(fold, "evaluation") for fold in range(1, FOLDS + 1)}

    def assign_folds(self, development, frames):
        """Returns the published folds; assigns folds as the base class does if the folder `crossvaridation` is missing."""
        files = self.find_fold_lists()
        if not any(file.is_file() for file in files.values()):
            return super().assign_folds(development, frames)
        return {
            recording.path: fold
            for fold, file in enumerate(files.values(), 1)
            for recording in label_list.read_label_list(file, scenes=SCENES, events=EVENTS, renamed=RENAMED_EVENTS)
        }
