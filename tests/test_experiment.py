"""The members of an experiment, and the groups they are trained in."""

import pytest

from configs import figure2, table4
from mfl_jax import experiment
from mfl_jax.errors import InputError
from support.small import SEEDS, small_experiment


def test_plan_of_the_papers_table():
    plan = experiment.expand_members(table4.get_config())
    assert len(plan) == 40 and len({member.name for member in plan}) == 40
    parts = experiment.split_groups(plan, lambda member: 16)
    assert sorted(map(len, parts)) == [4, 10, 10, 16]  # conventional and proposed share an architecture
    assert {member.config.alpha for member in plan if member.system == "proposed"} == {0.001}
    assert all(len({member.group for member in part}) == 1 for part in parts)


def test_plan_of_the_papers_figure():
    plan = experiment.expand_members(figure2.get_config())
    assert len(plan) == 2 * 5 * 10 and "proposed-alpha0.1-seed3" in {member.name for member in plan}


def test_plan_of_cross_validation(tmp_path):
    plan = experiment.expand_members(small_experiment(tmp_path, folds=True))
    assert [member.fold for member in plan] == [1] * SEEDS + [2] * SEEDS + [3] * SEEDS + [4] * SEEDS


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"seeds": 0}, "config.seeds is 0"),
        ({"members_at_once": -1}, "config.members_at_once is -1"),
        ({"validation": "fold1"}, "reports the last epoch"),
        ({"systems": {}}, "needs at least one"),
        ({"systems": {"mine": {"etta": 1.0}}}, "config.systems.mine sets 'etta'"),
        ({"systems": {"mine": {"eta": -1.0}}}, "config.eta is -1.0"),
    ],
)
def test_an_invalid_experiment_is_refused(tmp_path, fields, message):
    systems = fields.pop("systems", None)
    with pytest.raises(InputError, match=message):
        experiment.expand_members(small_experiment(tmp_path, systems=systems, **fields))
