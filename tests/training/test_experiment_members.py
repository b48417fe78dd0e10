"""The runs of an experiment and how they are grouped."""

import pytest

from configs import figure2, table4
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
    assert len(members) == 2 * 5 * 10 and "proposed-alpha0.1-seed3" in {member.name for member in members}


def test_cross_validation_groups_the_runs_by_fold(tmp_path):
    members = experiment_members.expand_members(small_experiment(tmp_path, folds=True))
    assert [member.fold for member in members] == [1] * SEEDS + [2] * SEEDS + [3] * SEEDS + [4] * SEEDS


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"seeds": 0}, "config.seeds is 0"),
        ({"members_at_once": -1}, "config.members_at_once is -1"),
        ({"validation": "fold1"}, "reports the last epoch"),
        ({"systems": {}}, "needs at least one system"),
        ({"systems": {"mine": {"etta": 1.0}}}, "config.systems.mine sets 'etta'"),
        ({"systems": {"mine": {"eta": -1.0}}}, "config.eta is -1.0"),
    ],
)
def test_invalid_fields_are_refused(tmp_path, fields, message):
    systems = fields.pop("systems", None)
    with pytest.raises(InputError, match=message):
        experiment_members.expand_members(small_experiment(tmp_path, systems=systems, **fields))
