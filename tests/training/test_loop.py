"""The loop on a small data set: what it writes, and that a run that was stopped ends like one that was not."""

import json
import os
import shutil
import signal

import jax
import numpy as np
import pytest
from tensorboardX.proto import event_pb2

from mfl_jax.errors import InputError
from mfl_jax.scoring import evaluate_run
from mfl_jax.training import checkpoints as checkpointing
from mfl_jax.training import loop
from mfl_jax.training.checkpoints import Checkpoints
from mfl_jax.training.epoch_log import validation_score
from support.small import merged, small_config, small_dataset

pytestmark = pytest.mark.lightly_optimised


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    tmp = tmp_path_factory.mktemp("train")
    return tmp, small_dataset(tmp)


@pytest.fixture(scope="module")
def whole_run(prepared):
    """An uninterrupted run, evaluated."""
    tmp, dataset = prepared
    workdir = tmp / "whole"
    config = small_config(tmp)
    assert loop.train(config, dataset, workdir)
    evaluate_run.evaluate_run(config, dataset, workdir)
    return workdir


def newest(workdir):
    with Checkpoints(workdir / "checkpoints", keep=2) as checkpoints:
        return checkpoints.newest()


def records(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def assert_same_end(workdir, expected):
    """Every array of the last checkpoint to the bit, and every logged figure but those of time."""
    got, want = newest(workdir)[0], newest(expected)[0]
    assert jax.tree.structure(got) == jax.tree.structure(want)
    assert all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True))
    timeless = [
        [{key: value for key, value in record.items() if "second" not in key} for record in records(w)]
        for w in (workdir, expected)
    ]
    assert timeless[0] == timeless[1]


def stop_after(monkeypatch, steps):
    """Makes the run receive ctrl-C during its step number `steps`."""
    build = loop.build

    def building(*arguments):
        run, taken = build(*arguments), 0

        def step(*inputs):
            nonlocal taken
            taken += 1
            if taken == steps:
                os.kill(os.getpid(), signal.SIGINT)
            return run.train_step(*inputs)

        return merged(run, train_step=step)

    monkeypatch.setattr(loop, "build_run", building)


def test_a_run_learns_and_writes_all_that_it_promises(whole_run):
    lines = records(whole_run)
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    assert lines[-1]["train"]["loss"] < lines[0]["train"]["loss"]
    for line in lines:
        assert line["seconds"] > 0 and line["clips_per_second"] > 0
        assert 0 < line["train"]["scene"]["focal_weight"] <= 1
        assert 0 < line["train"]["event"]["focal_weight_active"] <= 1
        assert 0 < line["train"]["event"]["focal_weight_inactive"] <= 1
        assert {"loss", "micro_f", "macro_f"} <= set(line["train"]["scene"]) & set(line["train"]["event"])
    assert json.loads((whole_run / "config.json").read_text())["channels"] == 4
    results = json.loads((whole_run / "results.json").read_text())
    assert results["split"] == "evaluation"
    assert set(results["scene"]) == {"micro_f", "macro_f", "confusion", "class_f"}
    assert set(results["event"]) == {"micro_f", "macro_f", "error_rate", "precision", "recall", "class_f"}
    assert np.sum(results["scene"]["confusion"]) == results["clips"] == 12
    assert set(results["floors"]["event"]) == {"all_off", "always_on", "oracle_scene"}
    assert not list(whole_run.glob("*.part*"))


def test_tensorboard_files_hold_the_logged_figures(whole_run):
    found = {}
    for file in (whole_run / "tensorboard").glob("events*"):
        content = file.read_bytes()
        while content:
            length = int.from_bytes(content[:8], "little")
            event = event_pb2.Event.FromString(content[12 : 12 + length])
            found |= {(value.tag, event.step): value.simple_value for value in event.summary.value}
            content = content[16 + length :]
    for record in records(whole_run):
        assert found["train/loss", record["epoch"]] == pytest.approx(record["train"]["loss"])
        logged = found["train/event/focal_weight_active", record["epoch"]]
        assert logged == pytest.approx(record["train"]["event"]["focal_weight_active"])


def test_a_checkpoint_is_read_by_orbax_alone(whole_run):
    import orbax.checkpoint as ocp

    step = max(int(path.name) for path in (whole_run / "checkpoints").iterdir())
    state = ocp.StandardCheckpointer().restore((whole_run / "checkpoints" / str(step) / "state").absolute())
    assert state["params"]["shared"]["conv1"]["conv"]["kernel"].shape == (3, 3, 1, 4)
    assert set(state) == set(checkpointing.FIELDS)
    assert np.isfinite(state["feature_stats"]["mean"]).all() and (state["feature_stats"]["std"] > 0).all()
    about = json.loads((whole_run / "checkpoints" / str(step) / "about" / "metadata").read_text())
    assert about["scenes"] == ["busy", "calm"] and about["events"] == ["high", "low"]
    assert about["mel"]["sample_rate_hz"] == 8000 and about["config"]["channels"] == 4


@pytest.mark.parametrize("step", [1, 4, 5, 7])
def test_a_run_stopped_anywhere_ends_bit_identical(prepared, whole_run, tmp_path, monkeypatch, step):
    """24 clips in batches of 5: five steps an epoch, so that 5 is the end of one and 7 lies within the second."""
    tmp, dataset = prepared
    config = small_config(tmp)
    with monkeypatch.context() as patch:
        stop_after(patch, step)
        assert not loop.train(config, dataset, tmp_path / "run")
    assert int(newest(tmp_path / "run")[0]["step"]) == step
    assert loop.train(config, dataset, tmp_path / "run")
    assert_same_end(tmp_path / "run", whole_run)


def test_more_epochs_go_on_from_the_end(prepared, whole_run, tmp_path):
    tmp, dataset = prepared
    assert loop.train(small_config(tmp, epochs=1), dataset, tmp_path / "run")
    assert loop.train(small_config(tmp), dataset, tmp_path / "run")
    assert_same_end(tmp_path / "run", whole_run)


def test_a_complete_run_is_left_as_it_is(prepared, whole_run, capsys):
    before = (whole_run / "metrics.jsonl").read_text()
    assert loop.train(small_config(prepared[0]), prepared[1], whole_run)
    assert "complete before" in capsys.readouterr().out
    assert (whole_run / "metrics.jsonl").read_text() == before


def spoil_truncate(folder):
    for file in folder.rglob("*"):
        if file.is_file() and file.stat().st_size > 100:
            os.truncate(file, file.stat().st_size // 2)


def spoil_flip(folder):
    """One bit of the largest file, which holds the arrays."""
    file = max((f for f in folder.rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def spoil_state(folder):
    shutil.rmtree(folder / "state")


def spoil_about(folder):
    (folder / "about" / "metadata").write_text("{")


@pytest.mark.parametrize("spoil", [spoil_truncate, spoil_flip, spoil_state, spoil_about])
def test_a_broken_checkpoint_is_passed_over(prepared, whole_run, tmp_path, capsys, spoil):
    tmp, dataset = prepared
    shutil.copytree(whole_run, tmp_path / "run")
    spoil(tmp_path / "run" / "checkpoints" / "15")
    assert loop.train(small_config(tmp), dataset, tmp_path / "run")
    said = capsys.readouterr()
    assert "15: not a whole checkpoint" in said.err and "Traceback" not in said.err
    assert "resumes after step 10" in said.out
    assert_same_end(tmp_path / "run", whole_run)


def test_without_any_whole_checkpoint_a_run_is_refused(prepared, whole_run, tmp_path):
    shutil.copytree(whole_run, tmp_path / "run")
    for step in (10, 15):
        spoil_truncate(tmp_path / "run" / "checkpoints" / str(step))
    with pytest.raises(InputError, match="none of its checkpoints is whole"):
        loop.train(small_config(prepared[0]), prepared[1], tmp_path / "run")


def test_a_half_written_checkpoint_does_not_count(prepared, whole_run, tmp_path):
    """What a killed process leaves: the folder under its temporary name."""
    shutil.copytree(whole_run, tmp_path / "run")
    (tmp_path / "run" / "checkpoints" / "15").rename(tmp_path / "run" / "checkpoints" / "15.orbax-checkpoint-tmp")
    assert loop.train(small_config(prepared[0]), prepared[1], tmp_path / "run")
    assert_same_end(tmp_path / "run", whole_run)


def test_another_config_or_other_data_are_refused(prepared, whole_run):
    tmp, dataset = prepared
    with pytest.raises(InputError, match=r"alpha was 0.001 and is 0.5"):
        loop.train(small_config(tmp, alpha=0.5), dataset, whole_run)
    with pytest.raises(InputError, match="other data"):
        loop.train(small_config(tmp), merged(dataset, fingerprint="another"), whole_run)
    with pytest.raises(InputError, match="another config"):
        evaluate_run.evaluate_run(small_config(tmp, seed=3), dataset, whole_run)
    with pytest.raises(InputError, match="other scenes"):
        evaluate_run.evaluate_run(small_config(tmp), merged(dataset, scenes=("calm", "busy")), whole_run)


def test_a_loss_that_is_no_number_stops_the_run(prepared, tmp_path):
    """Names the step, the clips of its batch and what is left to go on from, and saves nothing of it."""
    tmp, dataset = prepared
    config = small_config(tmp, learning_rate=1e30)
    with pytest.raises(
        InputError, match=r"the loss of step \d+ \(epoch 1, batch \d of 5\).*(nan|inf).*no checkpoint yet"
    ) as refused:
        loop.train(config, dataset, tmp_path / "run")
    step = int(str(refused.value).split()[4])
    told = json.loads((tmp_path / "run" / "bad_batch.json").read_text())
    clips = dataset.read("development")
    order = loop.batching.shuffle_indices(np.arange(len(clips)), seed=0, epoch=0)[(step - 1) * 5 : step * 5]
    assert told["step"] == step
    assert [(clip["recording"], clip["start_s"]) for clip in told["clips"]] == [
        (clips.recording[number], clips.clip_start_s[number]) for number in order
    ]
    assert newest(tmp_path / "run") is None


def test_parameters_that_are_no_numbers_are_not_saved(whole_run, tmp_path):
    with Checkpoints(whole_run / "checkpoints", keep=2) as checkpoints:
        plain, about = checkpoints.newest()
    jax.tree.leaves(plain["params"])[0][...] = np.inf
    state = checkpointing.TrainState(**plain)
    with (
        Checkpoints(tmp_path / "checkpoints", keep=2) as checkpoints,
        pytest.raises(InputError, match="after step 15 the parameters are no longer numbers; there is no checkpoint yet"),
    ):
        checkpoints.save(state, about)
    assert newest(tmp_path) is None


def test_validation_keeps_the_best_and_never_trains_on_it(prepared, tmp_path):
    tmp, dataset = prepared
    config = small_config(tmp, validation="fold2")
    clips = dataset.read("development")
    trained, held_out = loop.split_development(clips, "fold2")
    assert set(clips.fold[held_out]) == {2} and 2 not in clips.fold[trained]
    assert sorted([*trained, *held_out]) == list(range(len(clips)))
    assert loop.train(config, dataset, tmp_path / "run")
    scores = [validation_score(record) for record in records(tmp_path / "run")]
    results = evaluate_run.evaluate_run(config, dataset, tmp_path / "run")
    assert results["checkpoint"]["which"] == "best"
    assert results["checkpoint"]["epoch"] == 1 + scores.index(max(scores))


def test_single_task_systems_have_one_part_of_everything(prepared, tmp_path):
    tmp, dataset = prepared
    for task, other in (("scene", "event"), ("event", "scene")):
        config = small_config(tmp, tasks=(task,), epochs=1)
        assert loop.train(config, dataset, tmp_path / task)
        results = evaluate_run.evaluate_run(config, dataset, tmp_path / task)
        assert task in results and other not in results and set(results["floors"]) == {task}
        assert other not in records(tmp_path / task)[0]["train"]
