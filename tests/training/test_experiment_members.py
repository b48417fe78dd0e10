"""The runs of an experiment and how they are grouped."""

import sys

import pytest
from absl import flags
from ml_collections import config_flags

from configs import ablations, figure2, improved, improved_ablation, improved_final, table4
from mfl_jax.errors import InputError
from mfl_jax.training import experiment_members
from support.small import SEEDS, small_experiment


def test_the_papers_table_has_forty_runs():
    members = experiment_members.expand_members(table4.get_config())
    assert len(members) == 40 and len({member.name for member in members}) == 40
    parts = experiment_members.split_groups(members, lambda member: 16)
    assert sorted(map(len, parts)) == [4, 10, 10, 16]  # conventional and proposed share an architecture
    assert {member.config.alpha for member in members if member.system == "proposed"} == {0.001}
    assert all(len({member.group for member in part}) == 1 for part in parts)


def test_the_papers_figure_has_a_run_per_alpha():
    members = experiment_members.expand_members(figure2.get_config())
    names = {member.name for member in members}
    assert len(members) == len(names) == (2 * 5 + 2) * 10 and {"proposed-alpha0.1-seed3", "cnn_asc-alpha1-seed3"} <= names


@pytest.mark.parametrize("arg", ["", "quick"])
def test_the_ablation_gives_the_thresholds_of_the_final_comparison(arg):
    ablation, final = improved_ablation.get_config(arg), improved_final.get_config(arg)
    assert final.thresholds_from == f"runs/{ablation.name}" and ablation.folds and not final.folds
    for system, fields in final.systems.items():
        assert ablation.systems[system].to_dict() == fields.to_dict()
    alone = improved.get_config(arg)
    assert all(alone[field] == value for field, value in final.systems.improved.to_dict().items() if field != "augmentations")
    members = experiment_members.expand_members(ablation)
    assert len({member.group for member in members}) == 4  # one for each fold: all systems share a compiled step


def test_cross_validation_groups_the_runs_by_fold(tmp_path):
    members = experiment_members.expand_members(small_experiment(tmp_path, folds=True))
    assert [member.fold for member in members] == [1] * SEEDS + [2] * SEEDS + [3] * SEEDS + [4] * SEEDS


def test_names_without_variants_have_no_values(tmp_path):
    members = experiment_members.expand_members(small_experiment(tmp_path, seeds=1))
    assert [member.name for member in members] == ["proposed-seed0"]


def test_each_swept_field_is_varied_alone_in_the_group_of_its_system(tmp_path):
    systems = {
        "conventional_mtl": {"eta": 0.0, "gamma": 0.0, "zeta": 0.0},
        "proposed": {},
        "scenes": {"tasks": ("scene",)},
        "plain_events": {"tasks": ("event",), "gamma": 0.0, "zeta": 0.0},
    }
    config = small_experiment(tmp_path, systems=systems, seeds=1, sweep={"eta": (0, 0.5, 1), "zeta": (0.25,)})
    members = experiment_members.expand_members(config)
    got = {member.name: (member.config.eta, member.config.gamma, member.config.zeta) for member in members}
    assert got == {
        "conventional_mtl-seed0": (0.0, 0.0, 0.0),
        "proposed-seed0": (0.5, 1.0, 0.0625),
        "proposed-eta0-seed0": (0.0, 1.0, 0.0625),
        "proposed-eta1-seed0": (1.0, 1.0, 0.0625),
        "proposed-zeta0.25-seed0": (0.5, 1.0, 0.25),
        "scenes-seed0": (0.5, 1.0, 0.0625),
        "scenes-eta0-seed0": (0.0, 1.0, 0.0625),
        "scenes-eta1-seed0": (1.0, 1.0, 0.0625),
        "plain_events-seed0": (0.5, 0.0, 0.0),
    }
    groups = {member.group for member in members if member.system in ("conventional_mtl", "proposed")}
    assert len(groups) == 1 and len(got) == len(members)


@pytest.mark.parametrize(("text", "names"), [("(0, 0.5, 1)", ["", "eta0-", "eta1-"]), ("0.25", ["", "eta0.25-"]), ("()", [""])])
def test_a_sweep_is_set_on_the_command_line(tmp_path, monkeypatch, text, names):
    values = flags.FlagValues()
    monkeypatch.setattr("sys.argv", ["experiment", f"--config.sweep.eta={text}", "--config.seeds=1"])
    config_flags.DEFINE_config_dict("config", small_experiment(tmp_path), flag_values=values)
    values(sys.argv)
    members = experiment_members.expand_members(values.config)
    assert [member.name for member in members] == [f"proposed-{name}seed0" for name in names]


def test_an_ablation_has_the_eta_of_the_papers_running_text():
    config = ablations.get_config()
    assert config.systems.proposed_eta1.to_dict() == {**config.systems.proposed.to_dict(), "eta": 1.0}


FLAT = {"eta": 0.0, "gamma": 0.0, "zeta": 0.0}


@pytest.mark.parametrize("alphas", [(), (0.01, 1.0)])
def test_runs_with_weights_from_others_come_last(alphas):
    config = ablations.get_config()
    config.alphas = alphas
    members = experiment_members.expand_members(config)
    count = 10 * max(1, len(alphas))
    assert {member.system for member in members[-count:]} == {"constant_weights"}
    assert all(member.weights_from == "proposed" for member in members[-count:])
    (last,) = {member.group for member in members[-count:]}  # they share a compiled step
    assert last not in {member.group for member in members[:-count]}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"alphas": (0.1, -1.0)}, r"config.alphas is \(0.1, -1.0\); must be finite numbers >= 0"),
        ({"alphas": (0.1, 0.1)}, "each once"),
        ({"sweep": {"eta": (0.5, float("nan"))}}, r"config.sweep.eta is \(0.5, nan\); must be finite"),
        ({"sweep": {"zeta": ("a",)}}, "config.sweep.zeta is .*; must be finite"),
        ({"sweep": {"gamma": (True,)}}, "config.sweep.gamma is .*; must be finite"),
        ({"sweep": {"gamma": (1, 1.0000001)}}, "different in six digits"),
        ({"sweep": {"beta": (1.0,)}}, "config.sweep.beta: not a field to sweep; those are eta, gamma, zeta"),
        ({"sweep": {"eta": (1.0,)}, "alphas": (0.1,)}, "config.alphas and config.sweep.eta are both set"),
        ({"sweep": {"eta": (1.0,)}, "systems": {"mine": {"tasks": ("event",)}}}, "no system has the scene task and a focal loss"),
        ({"sweep": {"eta": (1.0,)}, "systems": {"mine": {"eta": 0.0, "gamma": 0.0, "zeta": 0.0}}}, "and a focal loss"),
        ({"seeds": 0}, "config.seeds is 0"),
        ({"members_at_once": -1}, "config.members_at_once is -1"),
        ({"validation": "fold1"}, "reports the last epoch"),
        ({"systems": {}}, "needs at least one system"),
        ({"systems": {"mine": {"etta": 1.0}}}, "config.systems.mine sets 'etta'"),
        ({"systems": {"mine": {"eta": -1.0}}}, "config.eta is -1.0"),
        ({"systems": {"mine": {"min_clip_share": 0.2}}}, "config.systems.mine sets 'min_clip_share', .* the same data"),
        ({"systems": {"mine": {"dataset": "soundscapes/full"}}}, "mine sets 'dataset', .*; set config.dataset"),
        ({"systems": {"focal": {}, "flat": {**FLAT, "weights_from": "other"}}}, "flat.weights_from is 'other'; .* own: focal$"),
        ({"systems": {"flat": {**FLAT, "weights_from": "flat"}}}, "is 'flat'; must be a system of .* own: none here"),
        (
            {"systems": {"a": {**FLAT, "weights_from": "b"}, "b": {**FLAT, "weights_from": "c"}, "c": {}}},
            "config.systems.a.weights_from is 'b'; must be a system of this experiment with weights of its own: c",
        ),
        ({"systems": {"focal": {}, "flat": {"weights_from": "focal"}}}, "must be plain, but its eta is 0.5; set it to 0"),
        (
            {"systems": {"focal": {}, "flat": {**FLAT, "weights_from": "focal", "alpha": 1.0}}},
            "its alpha is 1.0 and not 0.001; the two systems may differ in eta, gamma, zeta alone",
        ),
        ({"systems": {"focal": {"tasks": ("event",)}, "flat": {**FLAT, "weights_from": "focal"}}}, "its tasks is "),
    ],
)
def test_invalid_fields_are_refused(tmp_path, fields, message):
    systems = fields.pop("systems", None)
    with pytest.raises(InputError, match=message):
        experiment_members.expand_members(small_experiment(tmp_path, systems=systems, **fields))
