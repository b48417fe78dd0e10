"""The table of clips, against the counts of evaluation."""

import dataclasses
import json

import numpy as np
import pytest
from ml_collections import FrozenConfigDict

import mfl_jax
from mfl_jax.data import prepared_dataset
from mfl_jax.errors import InputError
from support.small import merged

pytestmark = pytest.mark.lightly_optimised

pytest.importorskip("pandas")
HOP_S = 0.02


@pytest.fixture(scope="module")
def tabled(trained_run, evaluated_run):
    """The table of the evaluation split, results.json, the model and the data set."""
    from mfl_jax import analysis

    dataset = prepared_dataset.open_dataset("annotated_audio/small", trained_run[1] / "data")
    results = json.loads((evaluated_run / "results.json").read_text())
    model = mfl_jax.load(evaluated_run)
    return analysis.clip_table(model, dataset), results, model, dataset


def test_one_row_per_clip_in_the_order_of_recordings(tabled):
    table = tabled[0]
    assert list(table.columns) == [
        "recording", "clip_start_s", "duration_s", "scene", "predicted_scene", "scene_right", "scene_probability",
        "scene_counts", "event_f", "missed_s", "false_s",
    ]  # fmt: skip
    expected = [(f"audio/evaluation_{number}.wav", start) for number in range(4) for start in (0.0, 1.0, 2.0)]
    assert list(zip(table.recording, table.clip_start_s, strict=True)) == expected
    assert list(table.index) == list(range(12))
    np.testing.assert_allclose(table.duration_s, [1.0, 1.0, 0.6] * 4)  # of 2.6 s


def test_scenes_add_up_to_the_scores_of_evaluation(tabled):
    table, results, _, _ = tabled
    assert 100 * table.scene_right.mean() == pytest.approx(results["scene"]["micro_f"])
    counts = table.groupby(["scene", "predicted_scene"]).size()
    names = results["scenes"]
    confusion = [[int(counts.get((true, guess), 0)) for guess in names] for true in names]
    assert confusion == results["scene"]["confusion"]
    assert list(table.scene) == ["calm"] * 3 + ["busy"] * 3 + ["calm"] * 3 + ["busy"] * 3
    # With two scenes, the answer is right if the true scene has more than half.
    assert list(table.scene_right) == list(table.scene_probability > 0.5)


def test_clips_too_short_for_a_scene_are_marked(tabled):
    from mfl_jax import analysis

    table, _, model, dataset = tabled
    assert table.scene_counts.all()
    config = FrozenConfigDict({**model.config.to_dict(), "min_clip_share": 0.61})
    again = analysis.clip_table(dataclasses.replace(model, config=config), dataset)
    assert list(again.scene_counts) == [True, True, False] * 4


def test_seconds_add_up_to_the_counts_of_evaluation(tabled):
    table, results, _, _ = tabled
    for column, count in (("missed_s", "fn"), ("false_s", "fp")):
        for label, frames in zip(results["events"], results["counts"]["event"][count], strict=True):
            seconds = sum(row.get(label, 0.0) for row in table[column])
            assert seconds == pytest.approx(frames * HOP_S, abs=1e-9), (column, label)
        assert all(value > 0 for row in table[column] for value in row.values())
        assert all(sum(row.values()) <= 2 * length + 1e-9 for row, length in zip(table[column], table.duration_s, strict=True))
    assert sum(results["counts"]["event"]["fp"]) > 0


def test_f_of_a_clip_is_computed_from_its_frames(tabled):
    """Compares with the scores of a call for each clip; padding is ignored."""
    table, _, model, dataset = tabled
    clips = dataset.read("evaluation")
    for row in table.itertuples():
        number = int(np.flatnonzero((clips.recording == row.recording) & (clips.clip_start_s == row.clip_start_s))[0])
        clip = clips.take(np.array([number]))
        valid = int(clip["valid_frames"][0])
        scene, event = model(clip["log_mel"][0, :valid])
        detected, active = event >= 0.5, clip["events"][0, :valid]
        if (detected | active).any():
            expected = 200 * (detected & active).sum() / (detected.sum() + active.sum())
            assert row.event_f == pytest.approx(expected, abs=2)  # a score at the threshold may fall on either side
        assert row.scene_probability == pytest.approx(float(scene[model.scenes.index(row.scene)]), abs=1e-5)
        assert row.predicted_scene == model.scenes[int(scene.argmax())]


class ConstantModel:
    """Stands in for a trained model: constant probabilities of scenes and events."""

    def __init__(self, model, scores):
        self.model, self.scores = model, np.float32(scores)

    def __getattr__(self, name):
        return getattr(self.model, name)

    def probabilities(self, batch):
        clips = len(batch["log_mel"])
        scene = np.tile(np.float32([0.75, 0.25]), (clips, 1)) if self.model.scenes else None
        event = np.broadcast_to(self.scores, (clips, 50, 2)) if self.model.events else None
        return scene, event


def test_model_that_detects_nothing_misses_all(tabled):
    """Its missed seconds are those of the labels; a clip without events has no F."""
    from mfl_jax import analysis

    _, _, model, dataset = tabled
    table = analysis.clip_table(ConstantModel(model, [0.0, 0.499]), dataset)
    clips = dataset.read("evaluation")
    everything = clips.take(np.arange(len(clips)))
    valid = np.arange(50) < everything["valid_frames"][:, None]
    active = everything["events"] & valid[..., None]
    for column, label in enumerate(model.events):
        assert sum(row.get(label, 0.0) for row in table.missed_s) == pytest.approx(active[..., column].sum() * HOP_S)
    assert not any(table.false_s)
    empty = {
        (str(clips.recording[n]), float(clips.clip_start_s[n])) for n in range(len(clips)) if not active[n].any()
    }  # fmt: skip
    assert empty, "the small data set has a clip without events"
    for row in table.itertuples():
        assert np.isnan(row.event_f) if (row.recording, row.clip_start_s) in empty else row.event_f == 0
    assert (table.predicted_scene == "busy").all() and table.scene_right.mean() == 0.5
    np.testing.assert_allclose(table.scene_probability, np.where(table.scene == "busy", 0.75, 0.25))


def test_false_alarms_in_the_padding_do_not_count(tabled):
    from mfl_jax import analysis

    _, _, model, dataset = tabled
    table = analysis.clip_table(ConstantModel(model, [0.5, 0.0]), dataset)
    clips = dataset.read("evaluation")
    everything = clips.take(np.arange(len(clips)))
    valid = np.arange(50) < everything["valid_frames"][:, None]
    false = (~everything["events"][..., 0] & valid).sum()
    assert sum(row.get("high", 0.0) for row in table.false_s) == pytest.approx(false * HOP_S)
    assert not any("low" in row for row in table.false_s)


@pytest.mark.parametrize("task", ["scene", "event"])
def test_model_of_one_task_has_the_columns_of_that_task(tabled, task):
    from mfl_jax import analysis

    both, _, model, dataset = tabled
    single_task = merged(model, **{"events" if task == "scene" else "scenes": ()})
    stub = ConstantModel(single_task, [0.5, 0.5])
    table = analysis.clip_table(stub, dataset)
    scene_columns = {"scene", "predicted_scene", "scene_right", "scene_probability", "scene_counts"}
    event_columns = {"event_f", "missed_s", "false_s"}
    assert set(table.columns) == set(both.columns) - (event_columns if task == "scene" else scene_columns)
    assert len(table) == 12


def test_development_split_has_a_table_and_others_are_refused(tabled):
    from mfl_jax import analysis

    _, _, model, dataset = tabled
    table = analysis.clip_table(model, dataset, "development")
    assert len(table) == 24 and table.recording.str.startswith("audio/development_").all()
    with pytest.raises(InputError, match="there is no split 'test'"):
        analysis.clip_table(model, dataset, "test")
    with pytest.raises(InputError, match="other events"):
        analysis.clip_table(model, merged(dataset, events=("a", "b")))


def test_table_can_be_written_as_csv_and_json(tabled, tmp_path):
    table = tabled[0]
    table.to_csv(tmp_path / "clips.csv", index=False)
    assert len((tmp_path / "clips.csv").read_text().splitlines()) == 13
    rows = json.loads(table.to_json(orient="records"))
    assert rows[0]["recording"] == "audio/evaluation_0.wav" and rows[0]["missed_s"] == table.missed_s[0]


def test_clips_that_are_not_annotated_have_predictions_alone(tabled):
    from mfl_jax import analysis

    model = tabled[2]
    row = analysis._compare_scene(model, -1, np.array([0.3, 0.7]))
    assert row["predicted_scene"] == model.scenes[1] and row["scene"] is row["scene_right"] is None
    assert np.isnan(row["scene_probability"])
    row = analysis._compare_events(model, None, np.full((5, 2), 0.9))
    assert np.isnan(row["event_f"]) and row["missed_s"] is row["false_s"] is None
