"""Which runs of an experiment are trained."""

import io
import types

import rich.console

from mfl_jax.training import experiment_members, experiment_run, run_group
from support.small import small_experiment

DEVICES = [None, None]
SPLITS = types.SimpleNamespace(numbers=lambda fold: ([0] * 7, None, None, None))


def train(members, home, monkeypatch):
    """Trains all members as one group without computing anything; returns the names of each group that was trained."""
    groups = []

    def train_group(part, splits, home, **_):
        groups.append([member.name for member in part])
        for member in part:
            member.folder(home).mkdir(parents=True)
            (member.folder(home) / "results.json").write_text("{}")
        return True

    monkeypatch.setattr(run_group, "train_group", train_group)
    monkeypatch.setattr(experiment_run, "_format_scores", lambda member, home: member.name)
    console = rich.console.Console(file=io.StringIO())
    assert experiment_run.train_parts(
        [members], SPLITS, home, devices=DEVICES, prepare_floors=lambda fold: dict, console=console
    )  # fmt: skip
    return groups


def expand(tmp_path, **systems):
    return experiment_members.expand_members(small_experiment(tmp_path, systems={"first": {}, **systems}, seeds=2))


def test_finished_runs_stay_as_they_are_when_a_system_joins_their_group(tmp_path, monkeypatch):
    assert train(expand(tmp_path), tmp_path, monkeypatch) == [["first-seed0", "first-seed1"]]
    more = expand(tmp_path, second={"eta": 0.25})
    assert len({member.group for member in more}) == 1
    assert train(more, tmp_path, monkeypatch) == [["second-seed0", "second-seed1"]]
    assert train(more, tmp_path, monkeypatch) == []


def test_a_group_that_was_stopped_while_it_was_scored_goes_on_with_all_members(tmp_path, monkeypatch):
    members = expand(tmp_path)
    members[0].folder(tmp_path).mkdir(parents=True)
    (members[0].folder(tmp_path) / "results.json").write_text("{}")
    run_group.find_folder(members, tmp_path, DEVICES).mkdir(parents=True)
    groups = []
    monkeypatch.setattr(run_group, "train_group", lambda part, *_, **__: groups.append([m.name for m in part]))
    console = rich.console.Console(file=io.StringIO())
    assert not experiment_run.train_parts(
        [members], SPLITS, tmp_path, devices=DEVICES, prepare_floors=lambda fold: dict, console=console
    )  # fmt: skip
    assert groups == [["first-seed0", "first-seed1"]]
