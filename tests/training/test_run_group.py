"""Runs trained at once against the same runs trained alone, and a stopped group against an uninterrupted one."""

import json
import shutil
import threading

import jax
import numpy as np
import pytest

from benchmarks import workload
from mfl_jax.errors import InputError
from mfl_jax.inference import trained_model
from mfl_jax.runtime import parallel
from mfl_jax.scoring import evaluate_run, floor_scores
from mfl_jax.training import (
    device_memory,
    experiment_members,
    histogram_file,
    loop,
    recording_counts,
    run_group,
    score_histograms,
    setup,
)
from mfl_jax.training.checkpoints import Checkpoints
from mfl_jax.training.group_batches import GroupBatches, take_clips_by_number
from mfl_jax.training.splits import read_splits
from support.small import small_experiment

pytestmark = pytest.mark.lightly_optimised

EPOCHS = 4


def prepare_floors(splits):
    return floor_scores.prepare_floors(splits.dataset, splits.evaluation, np.arange(len(splits.evaluation)))


def train(group, dataset, home, *, devices=1, stop=None, advance=lambda count: None):
    splits = read_splits(dataset, group[0].config.min_clip_share)
    setup.configure_process(group[0].config)
    return run_group.train_group(
        group, splits, home, devices=jax.local_devices()[:devices], stop=stop or threading.Event(),
        advance=advance, lowest=prepare_floors(splits),
    )  # fmt: skip


def read_records(folder):
    """Reads the records of a run, without times."""
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in record.items() if "second" not in key} for record in records]


def read_params(folder):
    with Checkpoints(folder / "checkpoints", keep=2) as checkpoints:
        return checkpoints.newest()[0]["params"]


@pytest.fixture(scope="module")
def at_once(small_data, tmp_path_factory):
    """Members that differ in seed and in alpha, trained together."""
    root, dataset = small_data
    group = experiment_members.expand_members(small_experiment(root, alphas=(0.001, 0.1), seeds=2, epochs=EPOCHS))
    assert len({member.group for member in group}) == 1 and len(group) == 4
    home = tmp_path_factory.mktemp("at_once")
    assert train(group, dataset, home)
    return home, group


@pytest.mark.parametrize("index", [0, 3])
def test_a_member_equals_the_run_trained_alone(small_data, at_once, tmp_path, index):
    """Over 20 steps, losses agree to 1e-3, parameters to 2 % of the distance moved, and scores to a point."""
    _, dataset = small_data
    home, group = at_once
    member, folder = group[index], home / "members" / group[index].name
    assert loop.train(member.config, dataset, tmp_path / "alone")
    alone = read_records(tmp_path / "alone")
    assert len(alone) == EPOCHS
    for ours, theirs in zip(read_records(folder), alone, strict=True):
        assert ours["train"]["loss"] == pytest.approx(theirs["train"]["loss"], rel=1e-3)
    _, start = setup.initial_state(member.config, dataset)
    moved = zip(*map(jax.tree.leaves, (read_params(folder), read_params(tmp_path / "alone"), start.params)), strict=True)
    for ours, theirs, at in moved:
        assert np.linalg.norm(ours - theirs) <= 0.02 * np.linalg.norm(theirs - np.asarray(at)) + 1e-7
    results = evaluate_run.evaluate_run(member.config, dataset, tmp_path / "alone")
    grouped = json.loads((folder / "results.json").read_text())
    for task in ("scene", "event"):
        assert grouped[task]["micro_f"] == pytest.approx(results[task]["micro_f"], abs=1.0)
    precision, expected = (of["event_probabilities"]["average_precision"] for of in (grouped, results))
    assert precision["class"] == pytest.approx(expected["class"], abs=0.01)
    assert precision["class_prevalence"] == expected["class_prevalence"]
    predicted, expected = (of["floors"]["event"].pop("events_of_predicted_scene") for of in (grouped, results))
    assert predicted["micro_f"] == pytest.approx(expected["micro_f"], abs=5)  # a clip may be taken for either of two scenes
    assert grouped["floors"] == results["floors"] and grouped["clips"] == results["clips"]
    assert grouped["training"].keys() == {"scene", "event", "clips"}
    assert grouped["training"]["clips"] == results["training"]["clips"] == len(dataset.read("development"))
    assert grouped["training"]["event"]["micro_f"] == pytest.approx(results["training"]["event"]["micro_f"], abs=1.0)
    counts, alone = recording_counts.read_counts(folder, grouped), recording_counts.read_counts(tmp_path / "alone", results)
    assert recording_counts.sum_recordings(counts) == grouped["counts"]
    for name in ("recording", "scene", "active"):
        np.testing.assert_array_equal(counts[name], alone[name])
    for of, at in ((grouped, folder), (results, tmp_path / "alone")):
        histogram, events = histogram_file.read_histogram(at)
        assert json.loads(json.dumps(score_histograms.summarise_scores(histogram))) == of["event_probabilities"]
        assert list(events) == of["events"]


@pytest.mark.ci_only
def test_gradients_of_the_first_step_equal_those_of_the_run_alone(small_data):
    """Compares RAdam's first moment, which after one step is 0.1 times the gradient."""
    root, dataset = small_data
    group = experiment_members.expand_members(small_experiment(root))
    splits = read_splits(dataset, group[0].config.min_clip_share)
    setup.configure_process(group[0].config)
    starts = [setup.initial_state(member.config, dataset) for member in group]
    step, _ = setup.bind_steps(setup.step_settings(group[0].config, starts[0][0]))
    take_step = parallel.compile_members(take_clips_by_number(step), (0, None, 0, 0), jax.devices()[:1], donate=False)
    batches = GroupBatches(
        [member.config.seed for member in group], group[0].config.batch_size,
        splits.development, np.arange(len(splits.development)), jax.devices()[:1],
    )  # fmt: skip
    batch, _ = next(batches.epoch(0))
    states = run_group.stack_trees([state for _, state in starts])
    scalars = run_group.stack_trees([setup.step_scalars(member.config) for member in group])
    together, _ = take_step(states, batches.clips, batch, scalars)
    for index in range(len(group)):

        def cut(tree, index=index):
            return jax.tree.map(lambda leaf: leaf[index : index + 1], tree)

        alone, _ = take_step(cut(states), batches.clips, cut(batch), cut(scalars))
        for ours, theirs in zip(jax.tree.leaves(together.opt_state[0].mu), jax.tree.leaves(alone.opt_state[0].mu), strict=True):
            assert np.linalg.norm(ours[index] - theirs[0]) <= 1e-4 * np.linalg.norm(theirs[0]) + 1e-9


def test_members_of_different_seeds_differ(at_once):
    home, group = at_once
    first, second = (read_records(home / "members" / member.name)[0]["train"]["loss"] for member in group[:2])
    assert first != second


def test_a_member_can_be_evaluated_like_any_run(small_data, at_once, tmp_path):
    _, dataset = small_data
    home, group = at_once
    shutil.copytree(home / "members" / group[0].name, tmp_path / "copy")
    before = json.loads((tmp_path / "copy" / "results.json").read_text())
    again = evaluate_run.evaluate_run(group[0].config, dataset, tmp_path / "copy")
    for task in ("scene", "event"):
        assert again[task]["micro_f"] == pytest.approx(before[task]["micro_f"], abs=0.5)
    # The report of the experiment needs these.
    assert (again["member"], again["fold"]) == (before["member"], before["fold"]) == (group[0].name, 0)
    assert recording_counts.read_counts(tmp_path / "copy", again) is not None
    (tmp_path / "copy" / "results.json").write_text(json.dumps({**before, "fold": 2, "split": "fold 2 of development"}))
    with pytest.raises(InputError, match=r"results\.json holds the scores on fold 2 of development for a cross-validation"):
        evaluate_run.evaluate_run(group[0].config, dataset, tmp_path / "copy")


@pytest.mark.ci_only
def test_members_over_several_devices(small_data, at_once, tmp_path):
    """Four members on three devices: two copies fill the devices up, and are dropped."""
    _, dataset = small_data
    home, group = at_once
    assert train(group, dataset, tmp_path, devices=3)
    assert sorted(path.name for path in (tmp_path / "members").iterdir()) == sorted(member.name for member in group)
    for member in group:
        for ours, theirs in zip(read_records(member.folder(tmp_path)), read_records(member.folder(home)), strict=True):
            assert ours["train"]["loss"] == pytest.approx(theirs["train"]["loss"], rel=1e-3)
        results = json.loads((member.folder(tmp_path) / "results.json").read_text())
        counts = recording_counts.read_counts(member.folder(tmp_path), results)
        assert recording_counts.sum_recordings(counts) == results["counts"]


class StopAfter(threading.Event):
    """Asks to stop after it was read `looks` times, i.e. after that many steps."""

    def __init__(self, looks):
        super().__init__()
        self.looks = looks

    def is_set(self):
        self.looks -= 1
        return self.looks < 0


@pytest.mark.parametrize("looks", [0, *(pytest.param(looks, marks=pytest.mark.ci_only) for looks in (4, 6, 11))])
def test_a_stopped_group_ends_bit_identical(small_data, at_once, tmp_path, looks):
    root, dataset = small_data
    home, group = at_once
    assert not train(group, dataset, tmp_path, stop=StopAfter(looks))
    assert not any(run_group.is_finished(member, tmp_path) for member in group)
    if looks == 6:  # within the second epoch
        short = experiment_members.expand_members(small_experiment(root, alphas=(0.001, 0.1), seeds=2, epochs=1))
        with pytest.raises(InputError, match=r"2 epochs are trained or begun already, but config\.epochs is 1"):
            train(short, dataset, tmp_path)
    assert train(group, dataset, tmp_path)
    for member in group:
        resumed, expected = member.folder(tmp_path), member.folder(home)
        assert read_records(resumed) == read_records(expected)
        jax.tree.map(np.testing.assert_array_equal, read_params(resumed), read_params(expected))
        assert (resumed / "results.json").read_text() == (expected / "results.json").read_text()
    assert not any((tmp_path / "groups").iterdir())


def test_a_killed_group_ends_bit_identical(small_data, at_once, tmp_path):
    """A group killed without a chance to save resumes from the last epoch."""
    _, dataset = small_data
    home, group = at_once
    steps = []

    def killed(count):
        steps.append(count)
        if len(steps) == 13:
            raise SystemExit

    with pytest.raises(SystemExit):
        train(group, dataset, tmp_path, advance=killed)
    taken = []
    assert train(group, dataset, tmp_path, advance=taken.append)
    assert 0 < taken[0] < sum(steps)
    for member in group:
        resumed, expected = member.folder(tmp_path), member.folder(home)
        assert read_records(resumed) == read_records(expected)
        jax.tree.map(np.testing.assert_array_equal, read_params(resumed), read_params(expected))


@pytest.mark.ci_only
def test_clips_that_do_not_fit_are_streamed(small_data, at_once, tmp_path, monkeypatch):
    _, dataset = small_data
    home, group = at_once
    monkeypatch.setattr(device_memory, "RESIDENT_SHARE", 0.0)
    assert train(group[:2], dataset, tmp_path)
    for member in group[:2]:
        for ours, theirs in zip(read_records(member.folder(tmp_path)), read_records(member.folder(home)), strict=True):
            assert ours["train"]["loss"] == pytest.approx(theirs["train"]["loss"], rel=1e-3)


@pytest.mark.ci_only
def test_the_estimate_of_a_run_holds_its_compiled_step():
    config, dataset = workload.make_config(batch_size=4, channels=16), workload.make_dataset(frames=100)
    run = setup.build_run(config, dataset)
    batch = workload.make_batch(dataset, config.batch_size)
    needs = run.train_step.lower(run.initial, batch, run.scalars).compile().memory_analysis()
    needed = needs.temp_size_in_bytes + needs.argument_size_in_bytes
    assert needed <= device_memory.run_bytes(config, dataset) <= 4 * needed


def test_as_many_members_at_once_as_fit(small_data, monkeypatch):
    root, dataset = small_data
    (member, *_) = experiment_members.expand_members(small_experiment(root))
    assert device_memory.count_fitting(member.config, dataset, jax.devices()[:2]) == 2 * device_memory.MOST_AT_ONCE
    monkeypatch.setattr(device_memory, "memory_bytes", lambda device: 1)
    assert device_memory.count_fitting(member.config, dataset, jax.devices()[:2]) == 2


@pytest.mark.ci_only
def test_members_with_and_without_every_option_equal_runs_alone_and_resume(small_data, tmp_path):
    """Augmentations, schedule, weight decay, biases, draws, crops and averaged parameters, beside a run without them."""
    root, dataset = small_data
    strengths = {"same_scene_mixing": 0.5, "filter_augment": 6.0, "gain": 3.0, "time_mask": 9.0, "frequency_mask": 4.0}
    options = {
        "augmentations": strengths, "learning_rate_decay": "cosine", "warmup_epochs": 0.5, "weight_decay": 0.1,
        "ema_decay": 0.9, "prior_bias": 1.0, "rare_event_sampling": 0.5, "random_crops": 0.7,
    }  # fmt: skip
    config = small_experiment(root, {"plain": {}, "all": options}, seeds=1, epochs=2)
    group = experiment_members.expand_members(config)
    assert len(group) == 2 and group[0].group == group[1].group
    assert not train(group, dataset, tmp_path / "stopped", stop=StopAfter(6))  # within the second epoch
    for home in ("whole", "stopped"):
        assert train(group, dataset, tmp_path / home)
    for member in group:
        folders = [tmp_path / home / "members" / member.name for home in ("whole", "stopped")]
        assert loop.train(member.config, dataset, tmp_path / member.name)
        states = []
        for folder in (*folders, tmp_path / member.name):
            with Checkpoints(folder / "checkpoints", keep=2) as checkpoints:
                states.append(checkpoints.newest()[0])
        whole, stopped, alone = states
        jax.tree.map(np.testing.assert_array_equal, whole, stopped)
        _, start = setup.initial_state(member.config, dataset)
        averaged = member.system == "all"
        assert (start.average is not None) == averaged == ("average" in whole)
        at, ours, theirs = (
            (start.average, whole["average"], alone["average"]) if averaged else (start.params, whole["params"], alone["params"])
        )
        for leaf, other, first in zip(*map(jax.tree.leaves, (ours, theirs, at)), strict=True):
            assert np.linalg.norm(leaf - other) <= 0.02 * np.linalg.norm(other - np.asarray(first)) + 1e-6
        loaded = trained_model.load(tmp_path / member.name).params
        jax.tree.map(np.testing.assert_array_equal, loaded, theirs["params"] if averaged else theirs)
        if averaged:
            pairs = zip(*map(jax.tree.leaves, (alone["average"]["params"], alone["params"])), strict=True)
            assert any((average != last).any() for average, last in pairs)
