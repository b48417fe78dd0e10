"""The config of a work directory, and fields that were added after a run was made."""

import json

import pytest

from configs import default
from mfl_jax.errors import InputError
from mfl_jax.inference import trained_model
from mfl_jax.runtime import workdir_config
from support.small import small_config, small_experiment

NEW_FIELD = "spec_augment"


def config_with_new_field(tmp_path, value=False):
    config = small_config(tmp_path)
    config[NEW_FIELD] = value
    return config


def test_a_run_made_before_a_field_existed_has_the_value_of_the_table(tmp_path, monkeypatch):
    monkeypatch.setitem(workdir_config.ADDED_FIELDS, NEW_FIELD, False)
    workdir_config.claim_workdir(tmp_path, small_config(tmp_path))
    stored = json.loads((tmp_path / "config.json").read_text())
    assert NEW_FIELD not in stored
    assert workdir_config.read_config(tmp_path / "config.json") == {**stored, NEW_FIELD: False}
    assert workdir_config.check_workdir(tmp_path, config_with_new_field(tmp_path))
    with pytest.raises(InputError, match=f"{NEW_FIELD} was False and is True"):
        workdir_config.check_workdir(tmp_path, config_with_new_field(tmp_path, value=True))
    workdir_config.claim_workdir(tmp_path, config_with_new_field(tmp_path))
    assert json.loads((tmp_path / "config.json").read_text())[NEW_FIELD] is False


def test_a_field_that_is_neither_stored_nor_in_the_table_is_named(tmp_path):
    workdir_config.claim_workdir(tmp_path, small_config(tmp_path))
    with pytest.raises(InputError, match=rf"^.*before config\.{NEW_FIELD} existed; add '{NEW_FIELD}', .* to ADDED_FIELDS in mfl"):
        workdir_config.check_workdir(tmp_path, config_with_new_field(tmp_path))


def test_a_field_of_a_section_is_filled_by_its_dotted_name(tmp_path, monkeypatch):
    workdir_config.claim_workdir(tmp_path, small_config(tmp_path))
    config = small_config(tmp_path)
    config.audio.power = 2.0
    with pytest.raises(InputError, match=r"before config\.audio\.power existed; add 'audio\.power'"):
        workdir_config.check_workdir(tmp_path, config)
    monkeypatch.setitem(workdir_config.ADDED_FIELDS, "audio.power", 2.0)
    assert workdir_config.check_workdir(tmp_path, config)


def test_fields_of_experiments_are_filled_in_experiments_alone(tmp_path, monkeypatch):
    run, experiment = tmp_path / "run", tmp_path / "experiment"
    workdir_config.claim_workdir(run, small_config(tmp_path))
    workdir_config.claim_workdir(experiment, small_experiment(tmp_path))
    monkeypatch.setitem(workdir_config.ADDED_EXPERIMENT_FIELDS, "pairs", 0)
    monkeypatch.setitem(workdir_config.ADDED_FIELDS, NEW_FIELD, False)
    config = small_experiment(tmp_path, pairs=0)
    config[NEW_FIELD] = False
    assert workdir_config.check_workdir(experiment, config)
    assert workdir_config.check_workdir(run, config_with_new_field(tmp_path))


def test_filling_leaves_stored_values_and_the_table_alone(monkeypatch):
    monkeypatch.setattr(workdir_config, "ADDED_FIELDS", {"seed": 0, "augment": {"share": 0.5}})
    stored = {"seed": 7}
    filled = workdir_config.fill_added_fields(stored)
    assert filled == {"seed": 7, "augment": {"share": 0.5}} and stored == {"seed": 7}
    filled["augment"]["share"] = 1.0
    assert workdir_config.ADDED_FIELDS["augment"] == {"share": 0.5}


def test_a_broken_config_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InputError, match=r"config\.json: not readable .*; name another --workdir"):
        workdir_config.check_workdir(tmp_path, small_config(tmp_path))


@pytest.fixture
def network_with_new_field(monkeypatch):
    """Makes the network depend on a config field that no stored run has; returns the values that it saw."""
    seen, build_network = [], trained_model.setup.build_network

    def build(config, dataset):
        seen.append(getattr(config, NEW_FIELD))
        return build_network(config, dataset)

    monkeypatch.setattr(trained_model.setup, "build_network", build)
    return seen


def test_a_checkpoint_made_before_a_field_existed_loads(trained_run, monkeypatch, network_with_new_field):
    monkeypatch.setitem(workdir_config.ADDED_FIELDS, NEW_FIELD, False)
    model = trained_model.load(trained_run[0])
    assert network_with_new_field == [False] and model.config[NEW_FIELD] is False


def test_a_checkpoint_without_a_field_is_refused_in_one_line(trained_run, network_with_new_field):
    with pytest.raises(InputError, match=rf"checkpoints: made before config\.{NEW_FIELD} existed; add '{NEW_FIELD}'") as refusal:
        trained_model.load(trained_run[0])
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("change", [{"scores": "frame,psds"}, {"postprocess": "tuned"}, {"tune": "segment"}])
def test_fields_that_do_not_affect_training_may_change(tmp_path, change):
    workdir_config.claim_workdir(tmp_path / "run", small_config(tmp_path))
    assert workdir_config.check_workdir(tmp_path / "run", small_config(tmp_path, **change))
    workdir_config.claim_workdir(tmp_path / "run", small_config(tmp_path, **change))
    # A run of a version without these fields.
    stored = json.loads((tmp_path / "run" / "config.json").read_text())
    older = {key: value for key, value in stored.items() if key not in ("scores", "postprocess", "tune")}
    (tmp_path / "run" / "config.json").write_text(json.dumps(older))
    assert workdir_config.check_workdir(tmp_path / "run", small_config(tmp_path, **change))
    with pytest.raises(InputError, match=r"threshold was 0\.5 and is 0\.4"):
        workdir_config.check_workdir(tmp_path / "run", small_config(tmp_path, threshold=0.4, **change))


@pytest.mark.parametrize(("field", "older", "newer"), [("mask_padding", False, True), ("min_clip_share", 0.0, 0.1)])
def test_a_kept_field_stays_as_in_an_older_run(tmp_path, capsys, field, older, newer):
    config = default.get_config()
    assert config[field] == newer
    workdir_config.claim_workdir(tmp_path, config)
    stored = json.loads((tmp_path / "config.json").read_text())
    del stored[field]  # as in a run made before the field existed
    (tmp_path / "config.json").write_text(json.dumps(stored))
    for _ in range(2):
        config = default.get_config()
        workdir_config.claim_workdir(tmp_path, config)
        assert config[field] == older
        assert capsys.readouterr().err == f"warning: {tmp_path}: config.{field} stays {older}, as in the run so far\n"
        assert json.loads((tmp_path / "config.json").read_text())[field] == older


@pytest.mark.parametrize(
    ("field", "values"), [("mask_padding", (True, False)), ("min_clip_share", (0.1, 0.0)), ("min_clip_share", (0.1, 0.3))]
)
def test_another_change_of_a_kept_field_is_refused(tmp_path, field, values):
    before, after = (small_config(tmp_path, **{field: value}) for value in values)
    workdir_config.claim_workdir(tmp_path, before)
    with pytest.raises(InputError, match=f"{field} was {values[0]} and is {values[1]}"):
        workdir_config.check_workdir(tmp_path, after)


@pytest.mark.parametrize("logged", [0, 2, 3])
def test_epochs_may_not_fall_below_those_trained(tmp_path, logged):
    """Also in the folders of an experiment's runs, which have a config and a log of their own."""
    workdir_config.claim_workdir(tmp_path / "run", small_config(tmp_path, epochs=5))
    (tmp_path / "run" / "metrics.jsonl").write_text("".join(f'{{"epoch": {n + 1}}}\n' for n in range(logged)) + '{"epo')
    for epochs in (3, 5, 9):
        assert workdir_config.check_workdir(tmp_path / "run", small_config(tmp_path, epochs=epochs))
    fewer = small_config(tmp_path, epochs=logged - 1)
    if logged:
        with pytest.raises(InputError, match=rf"run: {logged} epochs are trained .* is {logged - 1}; .* {logged} or more"):
            workdir_config.claim_workdir(tmp_path / "run", fewer)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["epochs"] == 5


def test_runs_at_once_may_change_between_calls(tmp_path):
    workdir_config.claim_workdir(tmp_path / "home", small_experiment(tmp_path, members_at_once=4))
    assert workdir_config.check_workdir(tmp_path / "home", small_experiment(tmp_path, members_at_once=2))


def test_systems_can_be_added_to_an_experiment(tmp_path):
    workdir_config.claim_workdir(tmp_path / "home", small_experiment(tmp_path))
    more = {"proposed": {}, "other": {"eta": 1.0}}
    assert workdir_config.check_workdir(tmp_path / "home", small_experiment(tmp_path, systems=more))
    for systems in ({"other": {"eta": 1.0}}, {"proposed": {"eta": 1.0}}):
        with pytest.raises(InputError, match=r"systems was \{'proposed': \{\}\} and is"):
            workdir_config.check_workdir(tmp_path / "home", small_experiment(tmp_path, systems=systems))


def test_an_experiment_from_before_sweeps_resumes(tmp_path):
    workdir_config.claim_workdir(tmp_path / "home", small_experiment(tmp_path))
    stored = json.loads((tmp_path / "home" / "config.json").read_text())
    assert stored.pop("sweep") == {"eta": [], "gamma": [], "zeta": []}
    (tmp_path / "home" / "config.json").write_text(json.dumps(stored))
    assert workdir_config.check_workdir(tmp_path / "home", small_experiment(tmp_path))
    with pytest.raises(InputError, match=r"sweep was .* and is"):
        workdir_config.check_workdir(tmp_path / "home", small_experiment(tmp_path, sweep={"eta": (1.0,)}))


@pytest.mark.parametrize("section", workdir_config.OPEN_SECTIONS)
def test_a_part_of_training_that_a_run_did_not_have_is_zero_there(tmp_path, section):
    """A new name needs no entry in ADDED_FIELDS: its weight was 0."""
    workdir_config.claim_workdir(tmp_path, small_config(tmp_path))
    stored = json.loads((tmp_path / "config.json").read_text())
    del stored[section]
    (tmp_path / "config.json").write_text(json.dumps(stored))
    config = small_config(tmp_path)
    config[section].smooth = 0.0
    assert workdir_config.check_workdir(tmp_path, config)
    config[section].smooth = 0.5
    with pytest.raises(InputError, match=rf"{section} was {{}} and is {{'smooth': 0.5}}"):
        workdir_config.check_workdir(tmp_path, config)
    workdir_config.claim_workdir(tmp_path / "other", config)
    with pytest.raises(InputError, match=rf"{section} was {{'smooth': 0.5}} and is {{}}"):
        workdir_config.check_workdir(tmp_path / "other", small_config(tmp_path))
