"""Runs trained at once against the same runs made alone, and an experiment that is stopped against one that is not."""

import json
import shutil
import threading

import jax
import numpy as np
import pytest

from mfl_jax.runtime import parallel
from mfl_jax.scoring import evaluate_run, floor_scores
from mfl_jax.training import experiment_members, loop, run_group, setup
from mfl_jax.training.checkpoints import Checkpoints
from support.small import SEEDS, small_dataset, small_experiment

pytestmark = pytest.mark.lightly_optimised


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    tmp = tmp_path_factory.mktemp("members")
    return tmp, small_dataset(tmp)


def floors_of(splits):
    clips = splits.evaluation
    return floor_scores.compute_floors(clips, np.arange(len(clips)), splits.dataset.scenes, splits.dataset.events)


def splits_of(dataset):
    return run_group.Splits(dataset, dataset.read("development"), dataset.read("evaluation"))


def trained(group, dataset, home, *, devices=1, stop=None, advance=lambda count: None):
    splits = splits_of(dataset)
    setup.configure_process(group[0].config)
    return run_group.train_group(
        group, splits, home, devices=jax.local_devices()[:devices], stop=stop or threading.Event(),
        advance=advance, lowest=floors_of(splits),
    )  # fmt: skip


def lines(folder):
    """The records of a run without its times."""
    made = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in record.items() if "second" not in key} for record in made]


def params(folder):
    with Checkpoints(folder / "checkpoints", keep=2) as checkpoints:
        return checkpoints.newest()[0]["params"]


@pytest.fixture(scope="module")
def at_once(prepared):
    """Members that differ in seed and in alpha, trained together."""
    tmp, dataset = prepared
    group = experiment_members.expand_members(small_experiment(tmp, alphas=(0.001, 0.1), epochs=7))
    assert len({member.group for member in group}) == 1 and len(group) == 2 * SEEDS
    home = tmp / "at_once"
    assert trained(group, dataset, home)
    return home, group


@pytest.mark.parametrize("index", [0, 4])
def test_a_member_is_the_run_made_alone(prepared, at_once, tmp_path, index):
    """35 steps: losses to 1e-3, the distance moved by the parameters to 1 %, and the very same scores."""
    _, dataset = prepared
    home, group = at_once
    member, folder = group[index], home / "members" / group[index].name
    assert loop.train(member.config, dataset, tmp_path / "alone")
    alone = lines(tmp_path / "alone")
    assert len(alone) == 7
    for ours, theirs in zip(lines(folder), alone, strict=True):
        assert ours["train"]["loss"] == pytest.approx(theirs["train"]["loss"], rel=1e-3)
    _, start = setup.initial_state(member.config, dataset)
    moved = zip(*map(jax.tree.leaves, (params(folder), params(tmp_path / "alone"), start.params)), strict=True)
    for ours, theirs, at in moved:
        assert np.linalg.norm(ours - theirs) <= 0.02 * np.linalg.norm(theirs - np.asarray(at)) + 1e-7
    results = evaluate_run.evaluate_run(member.config, dataset, tmp_path / "alone")
    own = json.loads((folder / "results.json").read_text())
    for task in ("scene", "event"):
        assert own[task]["micro_f"] == pytest.approx(results[task]["micro_f"], abs=1.0)
    assert own["floors"] == results["floors"] and own["clips"] == results["clips"]


def test_gradients_of_the_first_step_are_those_of_the_runs_alone(prepared):
    """By RAdam's first moment after one step, 0.1 times the gradient."""
    tmp, dataset = prepared
    group = experiment_members.expand_members(small_experiment(tmp))
    splits = splits_of(dataset)
    setup.configure_process(group[0].config)
    starts = [setup.initial_state(member.config, dataset) for member in group]
    step, _ = setup.bind_steps(group[0].config, starts[0][0])
    take_step = parallel.compile_members(run_group._with_clips(step), (0, None, 0, 0), jax.devices()[:1], donate=False)
    feed = run_group.GroupBatches(group, splits.development, np.arange(len(splits.development)), jax.devices()[:1])
    batch, _ = next(feed.epoch(0))
    states = run_group.stack_trees([state for _, state in starts])
    scalars = run_group.stack_trees([setup.step_scalars(member.config) for member in group])
    together, _ = take_step(states, feed.source, batch, scalars)
    for index in range(len(group)):

        def cut(tree, index=index):
            return jax.tree.map(lambda leaf: leaf[index : index + 1], tree)

        alone, _ = take_step(cut(states), feed.source, cut(batch), cut(scalars))
        for ours, theirs in zip(jax.tree.leaves(together.opt_state[0].mu), jax.tree.leaves(alone.opt_state[0].mu), strict=True):
            assert np.linalg.norm(ours[index] - theirs[0]) <= 1e-4 * np.linalg.norm(theirs[0]) + 1e-9


def test_members_of_different_seeds_differ(at_once):
    home, group = at_once
    first, second = (lines(home / "members" / member.name)[0]["train"]["loss"] for member in group[:2])
    assert first != second


def test_a_member_is_a_run_that_can_be_evaluated(prepared, at_once, tmp_path):
    _, dataset = prepared
    home, group = at_once
    shutil.copytree(home / "members" / group[0].name, tmp_path / "copy")
    before = json.loads((tmp_path / "copy" / "results.json").read_text())
    again = evaluate_run.evaluate_run(group[0].config, dataset, tmp_path / "copy")
    for task in ("scene", "event"):
        assert again[task]["micro_f"] == pytest.approx(before[task]["micro_f"], abs=0.5)


def test_members_over_several_devices(prepared, at_once, tmp_path):
    """Six members over four devices: two copies fill up, and are dropped."""
    _, dataset = prepared
    home, group = at_once
    assert trained(group, dataset, tmp_path, devices=4)
    assert sorted(path.name for path in (tmp_path / "members").iterdir()) == sorted(member.name for member in group)
    for member in group:
        for ours, theirs in zip(lines(tmp_path / "members" / member.name), lines(home / "members" / member.name), strict=True):
            assert ours["train"]["loss"] == pytest.approx(theirs["train"]["loss"], rel=1e-3)


class StopAfter(threading.Event):
    """Asks to stop once it was looked at so many times."""

    def __init__(self, looks):
        super().__init__()
        self.looks = looks

    def is_set(self):
        self.looks -= 1
        return self.looks < 0


@pytest.mark.parametrize("looks", [0, 6, 13])
def test_a_group_that_was_stopped_ends_in_the_same_bits(prepared, at_once, tmp_path, looks):
    _, dataset = prepared
    home, group = at_once
    assert not trained(group, dataset, tmp_path, stop=StopAfter(looks))
    assert not any(run_group.is_finished(member, tmp_path) for member in group)
    assert trained(group, dataset, tmp_path)
    for member in group:
        own, other = tmp_path / "members" / member.name, home / "members" / member.name
        assert lines(own) == lines(other)
        jax.tree.map(np.testing.assert_array_equal, params(own), params(other))
        assert (own / "results.json").read_text() == (other / "results.json").read_text()
    assert not any((tmp_path / "groups").iterdir())


def test_a_group_that_was_killed_ends_in_the_same_bits(prepared, at_once, tmp_path):
    """Killed without a chance to save anything: it goes on from the last epoch."""
    _, dataset = prepared
    home, group = at_once
    steps = []

    def killed(count):
        steps.append(count)
        if len(steps) == 13:
            raise SystemExit

    with pytest.raises(SystemExit):
        trained(group, dataset, tmp_path, advance=killed)
    taken = []
    assert trained(group, dataset, tmp_path, advance=taken.append)
    assert 0 < taken[0] < sum(steps)
    for member in group:
        own, other = tmp_path / "members" / member.name, home / "members" / member.name
        assert lines(own) == lines(other)
        jax.tree.map(np.testing.assert_array_equal, params(own), params(other))


def test_clips_that_do_not_fit_are_streamed(prepared, at_once, tmp_path, monkeypatch):
    _, dataset = prepared
    home, group = at_once
    monkeypatch.setattr(run_group, "RESIDENT_SHARE", 0.0)
    assert trained(group[:2], dataset, tmp_path)
    for member in group[:2]:
        for ours, theirs in zip(lines(tmp_path / "members" / member.name), lines(home / "members" / member.name), strict=True):
            assert ours["train"]["loss"] == pytest.approx(theirs["train"]["loss"], rel=1e-3)


def test_as_many_at_once_as_fit(prepared, monkeypatch):
    tmp, dataset = prepared
    (member, *_) = experiment_members.expand_members(small_experiment(tmp))
    assert run_group.count_fitting(member, dataset, jax.devices()[:2]) == 2 * run_group.MOST_AT_ONCE
    monkeypatch.setattr(run_group, "memory_bytes", lambda device: 1)
    assert run_group.count_fitting(member, dataset, jax.devices()[:2]) == 2
