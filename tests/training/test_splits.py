"""Which clips are trained on and which are held out."""

import numpy as np
import pytest

from mfl_jax.errors import InputError
from mfl_jax.training.splits import Splits, check_annotations, split_development
from support.small import merged


@pytest.fixture(scope="module")
def clips(small_data):
    return small_data[1].read("development")


def test_a_validation_fold_is_held_out_of_training(clips):
    training, held_out = split_development(clips, "fold2")
    assert set(clips.fold[held_out]) == {2} and 2 not in clips.fold[training]
    assert sorted([*training, *held_out]) == list(range(len(clips)))


def test_without_validation_nothing_is_held_out(clips):
    training, held_out = split_development(clips, "none")
    assert training.tolist() == list(range(len(clips))) and not len(held_out)


class FewClips:
    """Clips of given folds."""

    def __init__(self, *folds):
        self.fold = np.array(folds, int)

    def __len__(self):
        return len(self.fold)


@pytest.mark.parametrize(
    ("folds", "validation", "message"),
    [
        ((1, 2), "fold3", "no development recording is in that fold; folds with recordings: 1, 2"),
        ((3, 3), "fold3", "no clips to train on"),
        ((), "none", "no clips"),
    ],
)
def test_an_empty_part_is_refused(folds, validation, message):
    with pytest.raises(InputError, match=message):
        split_development(FewClips(*folds), validation)


def test_a_member_is_scored_on_its_fold_or_on_the_evaluation_split(small_data, clips):
    evaluation = small_data[1].read("evaluation")
    splits = Splits(merged(small_data[1]), clips, evaluation)
    training, scored, numbers, name = splits.numbers(0)
    assert len(training) == len(clips) and scored is evaluation and numbers.tolist() == list(range(len(evaluation)))
    assert name == "evaluation"
    training, scored, numbers, name = splits.numbers(2)
    assert scored is clips and set(clips.fold[numbers]) == {2} and 2 not in clips.fold[training]
    assert name == "fold 2 of development"


def test_an_empty_fold_of_an_experiment_is_refused(small_data):
    splits = Splits(small_data[1], FewClips(1, 2, 3), FewClips(0))
    assert splits.numbers(3)[0].tolist() == [0, 1]
    with pytest.raises(InputError, match=r"^fold4 is to be held out \(config\.validation or config\.folds\), but no .* 1, 2, 3$"):
        splits.numbers(4)


class AnnotatedClips:
    """Four clips: two with a scene, three with events, the last with neither."""

    scene_mask = np.array([True, True, False, False])
    event_mask = np.array([True, True, True, False])


@pytest.mark.parametrize(
    ("training", "held_out", "tasks", "message"),
    [
        ([2, 3], [], ("scene", "event"), "no clip to train on has a scene, but config.tasks has 'scene'; remove the task"),
        ([3], [], ("event",), "no clip to train on has annotated events, but config.tasks has 'event'"),
        ([0, 1], [3], ("scene", "event"), "no held-out clip is annotated for scene or event; set config.validation to another"),
        ([0, 1], [2], ("scene",), "no held-out clip is annotated for scene; set config.validation to another fold"),
    ],
)
def test_a_task_without_annotated_clips_is_refused(training, held_out, tasks, message):
    with pytest.raises(InputError, match=message):
        check_annotations(AnnotatedClips, np.array(training), np.array(held_out, int), tasks)


def test_a_task_that_cannot_be_validated_is_named(caplog):
    check_annotations(AnnotatedClips, np.array([0, 3]), np.array([1, 3]), ("scene", "event"))
    check_annotations(AnnotatedClips, np.array([2]), np.array([], int), ("event",))
    assert not caplog.records
    check_annotations(AnnotatedClips, np.array([0]), np.array([2]), ("scene", "event"))
    assert "no held-out clip is annotated for scene; the best checkpoint is chosen by the other task alone" in caplog.text
