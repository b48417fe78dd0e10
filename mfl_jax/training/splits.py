"""Which clips a run trains on, and which it is validated or scored on."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from mfl_jax.data.prepared_dataset import Clips, Dataset
from mfl_jax.errors import InputError, warn


def split_development(clips: Clips, validation: str) -> tuple[np.ndarray, np.ndarray]:
    """Splits the development clips by `config.validation`.

    Returns:
      The numbers of the clips to train on and of those held out, int [shape=(n,)] each; with `none`, nothing is held out.

    Raises:
      InputError: either part is empty.
    """
    numbers = np.arange(len(clips))
    if validation == "none":
        training, held_out = numbers, numbers[:0]
    else:
        in_fold = clips.fold == int(validation.removeprefix("fold"))
        training, held_out = numbers[~in_fold], numbers[in_fold]
        if not len(held_out):
            filled = ", ".join(map(str, np.unique(clips.fold[clips.fold > 0]))) or "none"
            raise InputError(
                f"{validation} is to be held out (config.validation or config.folds), but no development recording is in that "
                f"fold; folds with recordings: {filled}"
            )
    if not len(training):
        raise InputError("there are no clips to train on")
    return training, held_out


def _list_unannotated(clips: Clips, numbers: np.ndarray, tasks: Sequence[str]) -> list[str]:
    """Returns the tasks that none of some clips counts for."""
    masks = {"scene": clips.scene_mask, "event": clips.event_mask}
    return [task for task in tasks if not masks[task][numbers].any()]


def check_annotations(clips: Clips, training: np.ndarray, held_out: np.ndarray, tasks: Sequence[str]) -> None:
    """Checks that there are clips to train each task on; warns if one can't be validated.

    Args:
      clips: the development split.
      training, held_out: as from `split_development`.
      tasks: `config.tasks`.

    Raises:
      InputError: a task has no annotated clip to train on, or there is no task to validate.
    """
    if missing := _list_unannotated(clips, training, tasks):
        names = {"scene": "a scene", "event": "annotated events"}
        raise InputError(f"no clip to train on has {names[missing[0]]}, but config.tasks has {missing[0]!r}; remove the task")
    if len(held_out) and (missing := _list_unannotated(clips, held_out, tasks)):
        place = f"no held-out clip is annotated for {' or '.join(missing)}"
        if len(missing) == len(tasks):
            raise InputError(f"{place}; set config.validation to another fold")
        warn(f"{place}; the best checkpoint is chosen by the other task alone")


@dataclasses.dataclass(frozen=True)
class Splits:
    """The clips of an experiment."""

    dataset: Dataset
    development: Clips
    evaluation: Clips

    def numbers(self, fold: int) -> tuple[np.ndarray, Clips, np.ndarray, str]:
        """Selects the clips of a member.

        Args:
          fold: 1 to 4 to hold out that fold of the development split and score on it; 0 to score on the evaluation split.

        Returns:
          The numbers of the development clips to train on, the split to score on, the numbers of its clips to score, and a
          name for them.
        """
        if fold == 0:
            training, _ = split_development(self.development, "none")
            return training, self.evaluation, np.arange(len(self.evaluation)), "evaluation"
        training, held_out = split_development(self.development, f"fold{fold}")
        return training, self.development, held_out, f"fold {fold} of development"


def read_splits(dataset: Dataset, min_clip_share: float) -> Splits:
    """Opens both splits of a data set; `min_clip_share` is that of the config."""
    development, evaluation = (dataset.read(split, min_clip_share=min_clip_share) for split in ("development", "evaluation"))
    return Splits(dataset, development, evaluation)
