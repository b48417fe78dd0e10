"""The training loop on a small data set: its files, and that a stopped run ends like an uninterrupted one."""

import dataclasses
import json
import os
import shutil
import signal
import types

import jax
import numpy as np
import pytest
from sklearn.metrics import average_precision_score
from tensorboardX.proto import event_pb2

from mfl_jax import metrics
from mfl_jax.data import batching, random_crops
from mfl_jax.errors import InputError
from mfl_jax.inference import trained_model
from mfl_jax.scoring import clip_scores, evaluate_run
from mfl_jax.training import checkpoints as checkpointing
from mfl_jax.training import loop, recording_counts, resident_clips
from mfl_jax.training.checkpoints import Checkpoints
from mfl_jax.training.epoch_log import validation_score
from mfl_jax.training.group_batches import GroupBatches
from support.small import merged, small_config

pytestmark = pytest.mark.lightly_optimised


@pytest.fixture(scope="module")
def whole_run(small_data, tmp_path_factory):
    """An uninterrupted run, evaluated."""
    root, dataset = small_data
    workdir = tmp_path_factory.mktemp("whole") / "run"
    config = small_config(root)
    assert loop.train(config, dataset, workdir)
    evaluate_run.evaluate_run(config, dataset, workdir)
    return workdir


def newest(workdir):
    with Checkpoints(workdir / "checkpoints", keep=2) as checkpoints:
        return checkpoints.newest()


def checkpoint_steps(workdir):
    """The steps of the checkpoints; of short epochs, some have none."""
    with Checkpoints(workdir / "checkpoints", keep=2) as checkpoints:
        return sorted(checkpoints.steps())


def records(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def assert_same_end(workdir, expected):
    """Compares every array of the last checkpoint bit for bit, and every logged figure except times."""
    got, want = newest(workdir)[0], newest(expected)[0]
    assert jax.tree.structure(got) == jax.tree.structure(want)
    assert all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True))
    timeless = [
        [{key: value for key, value in record.items() if "second" not in key} for record in records(w)]
        for w in (workdir, expected)
    ]
    assert timeless[0] == timeless[1]


def stop_after(monkeypatch, steps):
    """Sends ctrl-C to the run during step number `steps`."""
    build = loop.build_run

    def build_interrupted(*arguments):
        run, taken = build(*arguments), 0

        def step(*inputs):
            nonlocal taken
            taken += 1
            if taken == steps:
                os.kill(os.getpid(), signal.SIGINT)
            return run.train_step(*inputs)

        return merged(run, train_step=step)

    monkeypatch.setattr(loop, "build_run", build_interrupted)


def test_a_run_learns_and_writes_its_files(whole_run):
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
    floors = {"all_off", "always_on", "oracle_scene", "events_of_true_scene", "events_of_predicted_scene"}
    assert set(results["floors"]["event"]) == floors
    assert not list(whole_run.glob("*.part*"))


def test_the_counts_of_the_recordings_add_up_to_those_of_the_run(whole_run):
    results = json.loads((whole_run / "results.json").read_text())
    counts = recording_counts.read_counts(whole_run, results)
    assert recording_counts.sum_recordings(counts) == results["counts"]
    assert counts["recording"].tolist() == [f"audio/evaluation_{number}.wav" for number in range(4)]
    assert (
        counts["answers"].sum(1).tolist() == [3] * 4 and [results["scenes"][n] for n in counts["scene"]] == ["calm", "busy"] * 2
    )


def test_tensorboard_files_hold_the_figures_of_metrics_jsonl(whole_run):
    values = {}
    for file in (whole_run / "tensorboard").glob("events*"):
        content = file.read_bytes()
        while content:
            length = int.from_bytes(content[:8], "little")
            event = event_pb2.Event.FromString(content[12 : 12 + length])
            values |= {(value.tag, event.step): value.simple_value for value in event.summary.value}
            content = content[16 + length :]
    for record in records(whole_run):
        assert values["train/loss", record["epoch"]] == pytest.approx(record["train"]["loss"])
        logged = values["train/event/focal_weight_active", record["epoch"]]
        assert logged == pytest.approx(record["train"]["event"]["focal_weight_active"])


def test_orbax_alone_reads_a_checkpoint(whole_run):
    import orbax.checkpoint as ocp

    step = max(int(path.name) for path in (whole_run / "checkpoints").iterdir())
    state = ocp.StandardCheckpointer().restore((whole_run / "checkpoints" / str(step) / "state").absolute())
    assert state["params"]["shared"]["conv1"]["conv"]["kernel"].shape == (3, 3, 1, 4)
    assert set(state) == set(checkpointing.FIELDS) - {"average"}  # needs config.ema_decay
    assert np.isfinite(state["feature_stats"]["mean"]).all() and (state["feature_stats"]["std"] > 0).all()
    about = json.loads((whole_run / "checkpoints" / str(step) / "about" / "metadata").read_text())
    assert about["scenes"] == ["busy", "calm"] and about["events"] == ["high", "low"]
    assert about["mel"]["sample_rate_hz"] == 8000 and about["config"]["channels"] == 4


@pytest.mark.parametrize("step", [1, 4, 5, 7])
def test_a_run_stopped_anywhere_ends_bit_identical(small_data, whole_run, tmp_path, monkeypatch, step):
    """24 clips in batches of 5 are five steps per epoch: 5 is the end of the first epoch, 7 is within the second."""
    root, dataset = small_data
    config = small_config(root)
    with monkeypatch.context() as patch:
        stop_after(patch, step)
        assert not loop.train(config, dataset, tmp_path / "run")
    assert int(newest(tmp_path / "run")[0]["step"]) == step
    if step > 5:
        with pytest.raises(InputError, match=r"2 epochs are trained or begun already, but config\.epochs is 1"):
            loop.train(small_config(root, epochs=1), dataset, tmp_path / "run")
    assert loop.train(config, dataset, tmp_path / "run")
    assert_same_end(tmp_path / "run", whole_run)


def test_more_epochs_continue_a_complete_run(small_data, whole_run, tmp_path):
    root, dataset = small_data
    assert loop.train(small_config(root, epochs=1), dataset, tmp_path / "run")
    assert loop.train(small_config(root), dataset, tmp_path / "run")
    assert_same_end(tmp_path / "run", whole_run)


def test_fewer_epochs_than_trained_are_refused(small_data, whole_run):
    root, dataset = small_data
    before = (whole_run / "config.json").read_text()
    for command in (loop.train, evaluate_run.evaluate_run):
        with pytest.raises(
            InputError, match=r"3 epochs are trained or begun already, but config\.epochs is 2; set config\.epochs to 3"
        ):
            command(small_config(root, epochs=2), dataset, whole_run)
    assert (whole_run / "config.json").read_text() == before


def test_a_complete_run_is_left_unchanged(small_data, whole_run, capsys):
    before = (whole_run / "metrics.jsonl").read_text()
    assert loop.train(small_config(small_data[0]), small_data[1], whole_run)
    assert "complete before" in capsys.readouterr().out
    assert (whole_run / "metrics.jsonl").read_text() == before


def damage_truncate(folder):
    for file in folder.rglob("*"):
        if file.is_file() and file.stat().st_size > 100:
            os.truncate(file, file.stat().st_size // 2)


def damage_flip(folder):
    """Flips one bit of the largest file, which holds the arrays."""
    file = max((f for f in folder.rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def damage_state(folder):
    shutil.rmtree(folder / "state")


def damage_about(folder):
    (folder / "about" / "metadata").write_text("{")


@pytest.mark.parametrize("damage", [damage_truncate, damage_flip, damage_state, damage_about])
def test_a_damaged_checkpoint_is_skipped(small_data, whole_run, tmp_path, capsys, damage):
    root, dataset = small_data
    shutil.copytree(whole_run, tmp_path / "run")
    before, last = checkpoint_steps(tmp_path / "run")
    assert last == 15
    damage(tmp_path / "run" / "checkpoints" / "15")
    assert loop.train(small_config(root), dataset, tmp_path / "run")
    output = capsys.readouterr()
    assert "15: damaged checkpoint" in output.err and "Traceback" not in output.err
    assert f"resumes after step {before} of 15" in output.out
    assert_same_end(tmp_path / "run", whole_run)


def test_a_run_with_only_damaged_checkpoints_is_refused(small_data, whole_run, tmp_path):
    shutil.copytree(whole_run, tmp_path / "run")
    for step in checkpoint_steps(tmp_path / "run"):
        damage_truncate(tmp_path / "run" / "checkpoints" / str(step))
    with pytest.raises(InputError, match="all checkpoints are damaged"):
        loop.train(small_config(small_data[0]), small_data[1], tmp_path / "run")


def test_a_half_written_checkpoint_is_ignored(small_data, whole_run, tmp_path):
    """A killed process leaves the folder under its temporary name."""
    shutil.copytree(whole_run, tmp_path / "run")
    (tmp_path / "run" / "checkpoints" / "15").rename(tmp_path / "run" / "checkpoints" / "15.orbax-checkpoint-tmp")
    assert loop.train(small_config(small_data[0]), small_data[1], tmp_path / "run")
    assert_same_end(tmp_path / "run", whole_run)


def test_another_config_or_data_set_is_refused(small_data, whole_run):
    root, dataset = small_data
    with pytest.raises(InputError, match=r"alpha was 0.001 and is 0.5"):
        loop.train(small_config(root, alpha=0.5), dataset, whole_run)
    with pytest.raises(InputError, match="other data"):
        loop.train(small_config(root), merged(dataset, fingerprint="another"), whole_run)
    with pytest.raises(InputError, match="another config"):
        evaluate_run.evaluate_run(small_config(root, seed=3), dataset, whole_run)
    with pytest.raises(InputError, match="other scenes"):
        evaluate_run.evaluate_run(small_config(root), merged(dataset, scenes=("calm", "busy")), whole_run)


def test_a_loss_that_is_not_finite_stops_the_run(small_data, tmp_path):
    """The error names the step and the last good checkpoint, the clips of the batch are listed, and nothing is saved."""
    root, dataset = small_data
    config = small_config(root, learning_rate=1e30)
    with pytest.raises(
        InputError, match=r"the loss of step \d+ \(epoch 1, batch \d of 5\) is not finite: (nan|inf).*no checkpoint yet"
    ) as refused:
        loop.train(config, dataset, tmp_path / "run")
    step = int(str(refused.value).split()[4])
    report = json.loads((tmp_path / "run" / "bad_batch.json").read_text())
    clips = dataset.read("development")
    order = batching.shuffle_indices(np.arange(len(clips)), seed=0, epoch=0)[(step - 1) * 5 : step * 5]
    assert report["step"] == step
    assert [(clip["recording"], clip["start_s"]) for clip in report["clips"]] == [
        (clips.recording[number], clips.clip_start_s[number]) for number in order
    ]
    assert newest(tmp_path / "run") is None


def test_parameters_that_are_not_finite_are_not_saved(whole_run, tmp_path):
    with Checkpoints(whole_run / "checkpoints", keep=2) as checkpoints:
        plain, about = checkpoints.newest()
    jax.tree.leaves(plain["params"])[0][...] = np.inf
    state = checkpointing.TrainState(**plain)
    with (
        Checkpoints(tmp_path / "checkpoints", keep=2) as checkpoints,
        pytest.raises(InputError, match="after step 15 a parameter is not finite; there is no checkpoint yet"),
    ):
        checkpoints.save(state, about)
    assert newest(tmp_path) is None


def test_validation_keeps_the_best_checkpoint(small_data, tmp_path):
    root, dataset = small_data
    config = small_config(root, validation="fold2")
    assert loop.train(config, dataset, tmp_path / "run")
    scores = [validation_score(record) for record in records(tmp_path / "run")]
    results = evaluate_run.evaluate_run(config, dataset, tmp_path / "run")
    assert results["checkpoint"]["which"] == "best"
    assert results["checkpoint"]["epoch"] == 1 + scores.index(max(scores))
    check_training_scores(results["training"], dataset, tmp_path / "run")


def check_training_scores(training, dataset, run):
    """Scores the clips outside fold 2 with the loaded model, frame by frame."""
    clips = dataset.read("development")
    numbers = np.flatnonzero(clips.fold != 2)
    assert 0 < len(numbers) < len(clips)
    scored = list(clip_scores.compute_clip_probabilities(trained_model.load(run), clips, numbers))
    answers = [clip.scene.argmax() == clip.labels["scene"] for clip in scored]
    probabilities, labels = (
        np.concatenate(columns) for columns in zip(*((clip.event, clip.labels["events"]) for clip in scored), strict=True)
    )
    frames = metrics.frame_scores(probabilities, labels)
    above = average_precision_score(labels, probabilities, average=None) - labels.mean(0)
    assert training == {
        "scene": {"micro_f": pytest.approx(100 * np.mean(answers)), "macro_f": training["scene"]["macro_f"]},
        "event": {
            "micro_f": pytest.approx(frames["micro_f"], abs=0.5), "macro_f": pytest.approx(frames["macro_f"], abs=0.5),
            "average_precision_above_prevalence": pytest.approx(above.mean(), abs=0.02),
        },
        "clips": len(numbers),
    }  # fmt: skip


@pytest.mark.ci_only
def test_single_task_systems_log_and_score_their_task_alone(small_data, tmp_path):
    root, dataset = small_data
    for task, other in (("scene", "event"), ("event", "scene")):
        config = small_config(root, tasks=(task,), epochs=1)
        assert loop.train(config, dataset, tmp_path / task)
        results = evaluate_run.evaluate_run(config, dataset, tmp_path / task)
        assert task in results and other not in results and set(results["floors"]) == {task}
        assert other not in records(tmp_path / task)[0]["train"]


def test_steps_get_the_schedule_and_the_weight_decay_of_the_config(small_data, tmp_path, monkeypatch):
    root, dataset = small_data
    given = []

    def train_step(state, batch, scalars):
        given.append(scalars)
        counted = jax.tree.map(lambda leaf: leaf + 1, state.sums)
        return dataclasses.replace(state, step=state.step + 1, sums=counted), np.float32(0)

    build_run = loop.build_run
    monkeypatch.setattr(loop, "build_run", lambda *of: dataclasses.replace(build_run(*of), train_step=train_step))
    options = {"learning_rate_decay": "cosine", "warmup_epochs": 0.5, "weight_decay": 0.25}
    config = small_config(root, epochs=2, **options)
    loop.train(config, dataset, tmp_path / "run")
    steps_taken = -(-dataset.clips["development"] // config.batch_size) * config.epochs
    expected = {"decay_steps": steps_taken, "warmup_steps": steps_taken / 4, "weight_decay": 0.25}
    assert len(given) == steps_taken
    assert all({name: float(scalars[name]) for name in expected} == expected for scalars in given)


@pytest.fixture(params=["resident", "streamed"])
def job_with_crops(small_data, tmp_path, request):
    """A job that only makes batches and reports bad ones, without a network."""
    root, dataset = small_data
    job = object.__new__(loop._Job)
    job.run = types.SimpleNamespace(
        config=small_config(root, random_crops=0.8, seed=3), dataset=dataset, padded_size=5, rows=slice(0, 5)
    )
    job.clips, job.training, job.epoch_steps, job.workdir = dataset.read("development"), np.arange(1, 24), 5, tmp_path
    job.draws = None
    job.resident = resident_clips.place_clips(job.clips, jax.devices()[:1]) if request.param == "resident" else {}
    job.take_batch = resident_clips.compile_take_batch(jax.devices()[:1])
    job.background = types.SimpleNamespace(wait=lambda: None)
    job.checkpoints = types.SimpleNamespace(last_good=lambda: "there is no checkpoint yet")
    return job


def test_an_epoch_resumed_within_has_the_same_random_crops_as_a_member_of_a_group(job_with_crops):
    job = job_with_crops
    whole = list(job._batches(1, 0))
    assert [clips for _, clips in whole] == [5, 5, 5, 5, 3]
    for first in (2, 4):
        for resumed, batch in zip(job._batches(1, first), whole[first:], strict=True):
            jax.tree.map(np.testing.assert_array_equal, resumed, batch)
    group = GroupBatches([7, 3], 5, job.clips, job.training, jax.devices()[:1], random_crops=[0.8, 0.8])
    for (batch, clips), (of_group, _) in zip(whole, group.epoch(1), strict=True):
        member = resident_clips.take_batch(group.clips, {name: array[1] for name, array in of_group.items()})
        for name, array in batch.items():
            np.testing.assert_array_equal(array[:clips], member[name][:clips])
    plain = batching.shuffle_indices(job.training, seed=3, epoch=1)
    moved = np.concatenate([batch["log_mel"][:clips] for batch, clips in whole]) != job.clips.take(plain)["log_mel"]
    assert 5 < moved.any((1, 2)).sum() < 16


def test_a_bad_batch_is_listed_with_the_starts_of_its_random_crops(job_with_crops):
    job = job_with_crops
    with pytest.raises(InputError, match=r"the loss of step 7 \(epoch 2, batch 2 of 5\) is not finite"):
        job._report_bad_batch(7, np.float32("nan"))
    listed = json.loads((job.workdir / "bad_batch.json").read_text())["clips"]
    order, clips = batching.shuffle_indices(job.training, seed=3, epoch=1), job.clips
    offsets = random_crops.draw_offsets(order, clips.next_clip, clips.valid_frames, probability=0.8, seed=3, epoch=1)
    numbers, offsets = order[5:10], offsets[5:10]
    assert [clip["recording"] for clip in listed] == clips.recording[numbers].tolist() and offsets.any()
    np.testing.assert_allclose([clip["start_s"] for clip in listed], clips.clip_start_s[numbers] + 0.02 * offsets)
    windows = clips.take(numbers, offsets)["log_mel"]
    assert [clip["log_mel"] for clip in listed] == [[float(one.min()), float(one.max())] for one in windows]
