"""The weights that a system takes from the finished runs of another one, and when they are known."""

import threading

import pytest

from mfl_jax.errors import InputError
from mfl_jax.runtime import workdir_config
from mfl_jax.training import constant_weights, epoch_log, experiment_members, experiment_run
from support.small import small_experiment

SYSTEMS = {"proposed": {}, "flat": {"eta": 0.0, "gamma": 0.0, "zeta": 0.0, "weights_from": "proposed"}}


def expand(tmp_path, **fields):
    members = experiment_members.expand_members(small_experiment(tmp_path, systems=SYSTEMS, **fields))
    return members, {member.name: member for member in members}


def log(member, home, *epochs):
    """Writes the loss multipliers (scenes, active, inactive) of a run, one triple per epoch."""
    records = [
        {
            "epoch": number,
            "train": {
                "scene": {"loss_multiplier": scene},
                "event": {"loss_multiplier_active": active, "loss_multiplier_inactive": inactive},
            },
        }
        for number, (scene, active, inactive) in enumerate(epochs, 1)
    ]
    member.folder(home).mkdir(parents=True, exist_ok=True)
    epoch_log.write(member.folder(home) / "metrics.jsonl", records)


def weights(member):
    return [member.config[field] for field in ("scene_weight", "active_weight", "inactive_weight")]


def test_weights_are_means_over_epochs_and_seeds(tmp_path):
    members, by_name = expand(tmp_path, seeds=2)
    log(by_name["proposed-seed0"], tmp_path, (0.9, 0.5, None), (0.5, 0.3, 0.75))
    log(by_name["proposed-seed1"], tmp_path, (0.8, None, None), (0.6, 0.7, 0.25))
    for name in ("flat-seed0", "flat-seed1"):
        resolved = constant_weights.resolve_weights(by_name[name], members, tmp_path)
        assert weights(resolved) == pytest.approx([0.7, 0.5, 0.5])
        assert weights(by_name[name]) == [1, 1, 1] and resolved.config.seed == by_name[name].config.seed
    other = by_name["proposed-seed0"]
    assert constant_weights.resolve_weights(other, members, tmp_path) is other


def test_weights_come_from_the_same_fold_and_alpha(tmp_path):
    members, by_name = expand(tmp_path, seeds=1, folds=True, alphas=(0.01, 1.0))
    sources = [member for member in members if member.system == "proposed"]
    for number, source in enumerate(sources, 1):
        log(source, tmp_path, (number, number / 10, number / 100))
    assert len(sources) == 8
    for number, source in enumerate(sources, 1):
        member = by_name[source.name.replace("proposed", "flat")]
        resolved = constant_weights.resolve_weights(member, members, tmp_path)
        assert weights(resolved) == pytest.approx([number, number / 10, number / 100])
        assert resolved.config.alpha == source.config.alpha


def test_swept_runs_give_no_weights(tmp_path):
    members, by_name = expand(tmp_path, seeds=2, sweep={"eta": (1.0,), "zeta": (1.0,)})
    assert sum(member.system == "proposed" for member in members) == 6
    sources = constant_weights.find_sources(by_name["flat-seed1"], members)
    assert [source.name for source in sources] == ["proposed-seed0", "proposed-seed1"]


def test_without_a_multiplier_the_weight_is_one(tmp_path):
    members, by_name = expand(tmp_path, seeds=1)
    log(by_name["proposed-seed0"], tmp_path, (0.5, None, 0.25))
    assert weights(constant_weights.resolve_weights(by_name["flat-seed0"], members, tmp_path)) == [0.5, 1.0, 0.25]


def test_a_run_that_was_begun_keeps_its_weights(tmp_path):
    members, by_name = expand(tmp_path, seeds=1)
    log(by_name["proposed-seed0"], tmp_path, (0.9, 0.1, 0.3), (0.8, 0.1, 0.1))
    begun = constant_weights.resolve_weights(by_name["flat-seed0"], members, tmp_path)
    workdir_config.claim_workdir(begun.folder(tmp_path), begun.config)
    (by_name["proposed-seed0"].folder(tmp_path) / "metrics.jsonl").unlink()
    again = constant_weights.resolve_weights(by_name["flat-seed0"], members, tmp_path)
    assert weights(again) == weights(begun) == [(0.9 + 0.8) / 2, 0.1, 0.2]
    assert workdir_config.check_workdir(again.folder(tmp_path), again.config)


def test_a_run_is_left_out_if_an_earlier_version_trained_its_source(tmp_path, capsys):
    members, by_name = expand(tmp_path, seeds=1)
    source = by_name["proposed-seed0"]
    source.folder(tmp_path).mkdir(parents=True)
    epoch_log.write(source.folder(tmp_path) / "metrics.jsonl", [{"epoch": 1, "train": {"scene": {}, "event": {}}}])
    with pytest.raises(InputError, match=r"proposed-seed0/metrics.jsonl: epoch 1 has no loss_multiplier, "):
        constant_weights.resolve_weights(by_name["flat-seed0"], members, tmp_path)
    assert constant_weights.restore_members(members, tmp_path) == [source]
    assert capsys.readouterr().err.count("; left out: flat-seed0\n") == 1
    log(by_name["proposed-seed0"], tmp_path, (0.9, 0.5, 0.1))
    assert constant_weights.restore_members(members, tmp_path) == members


class Clock(threading.Event):
    """Another host's run is finished at the second look."""

    def __init__(self, unfinished, home):
        super().__init__()
        self.unfinished, self.home, self.looks = list(unfinished), home, 0

    def wait(self, timeout=None):
        self.looks += 1
        if self.looks % 2 == 0:
            folder = self.unfinished.pop().folder(self.home)
            folder.mkdir(parents=True)
            (folder / "results.json").write_text("{}")
        return self.is_set()


def test_a_part_waits_for_the_runs_that_give_its_weights(tmp_path):
    members, by_name = expand(tmp_path, seeds=2)
    sources, part = members[:2], members[2:]
    clock = Clock(sources, tmp_path)
    assert experiment_run._wait_for_sources(sources, members, tmp_path, stop=clock) and clock.looks == 0
    assert experiment_run._wait_for_sources(part, members, tmp_path, stop=clock) and clock.looks == 4
    clock.set()
    (by_name["proposed-seed1"].folder(tmp_path) / "results.json").unlink()
    clock.unfinished = [members[3]]
    assert not experiment_run._wait_for_sources(part, members, tmp_path, stop=clock)
