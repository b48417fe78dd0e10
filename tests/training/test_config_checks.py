"""Invalid config fields are refused in one line that names the field, its value and the rule."""

import numpy as np
import pytest

from mfl_jax.errors import InputError
from mfl_jax.training import config_checks
from support.small import small_config


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"epochs": 0}, "config.epochs is 0; must be >= 1"),
        ({"alpha": -1.0}, "config.alpha is -1.0; must be finite and >= 0"),
        ({"eta": float("nan")}, "config.eta is nan; must be finite and >= 0"),
        ({"active_weight": -0.5}, "config.active_weight is -0.5; must be finite and >= 0"),
        ({"learning_rate": 0.0}, "config.learning_rate is 0.0; must be finite and > 0"),
        ({"dropout": 1.0}, "config.dropout is 1.0; must be >= 0 and < 1"),
        ({"min_clip_share": -0.1}, "config.min_clip_share is -0.1; must be from 0 to 1"),
        ({"min_clip_share": 1.01}, "config.min_clip_share is 1.01; must be from 0 to 1"),
        ({"min_clip_share": float("nan")}, "config.min_clip_share is nan; must be from 0 to 1"),
        ({"warmup_epochs": 2.5, "epochs": 2}, "config.warmup_epochs is 2.5; must be at most 2 (epochs)"),
        ({"weight_decay": 100.0, "learning_rate": 0.02}, "config.weight_decay is 100.0; must be below 50, 1 / learning_rate"),
        ({"warmup_epochs": -1.0}, "config.warmup_epochs is -1.0; must be finite and >= 0"),
        ({"weight_decay": float("inf")}, "config.weight_decay is inf; must be finite and >= 0"),
        ({"random_crops": -0.1}, "config.random_crops is -0.1; must be from 0 to 1"),
        ({"random_crops": 1.01}, "config.random_crops is 1.01; must be from 0 to 1"),
        ({"random_crops": float("nan")}, "config.random_crops is nan; must be from 0 to 1"),
        ({"threshold": 1.0}, "config.threshold is 1.0; must be > 0 and < 1"),
        ({"balance": "gradnorm"}, "config.balance is 'gradnorm'; must be one of fixed, uncertainty, dwa"),
        ({"balance": "dwa", "tasks": ("scene",)}, "config.balance is 'dwa'; must be fixed: there is nothing to balance"),
        ({"optimiser": "sgd"}, "config.optimiser is 'sgd'; must be one of radam"),
        ({"tasks": ()}, "config.tasks is (); must be one or both of scene, event"),
        ({"tasks": ("scene", "speech")}, "config.tasks is ('scene', 'speech'); must be one or both of scene, event"),
        ({"seed": 2**32}, "config.seed is 4294967296; must be from 0 to 4294967295"),
        ({"scores": "frame, clip"}, "config.scores is 'frame, clip'; must be some of frame, segment, event, psds"),
        ({"tune": "event"}, "config.tune is 'event'; must be one of frame, segment"),
    ],
)
def test_an_invalid_field_is_refused(tmp_path, fields, message):
    with pytest.raises(InputError) as refusal:
        config_checks.check_config(small_config(tmp_path, **fields))
    assert str(refusal.value).startswith(message) and "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("warmup_epochs", "5", "config.warmup_epochs is '5'; must be a number"),
        ("alpha", None, "config.alpha is None; must be a number"),
        ("alpha", True, "config.alpha is True; must be a number"),
        ("epochs", "many", "config.epochs is 'many'; must be a whole number"),
        ("epochs", 2.5, "config.epochs is 2.5; must be a whole number"),
        ("mask_padding", 1, "config.mask_padding is 1; must be True or False"),
        ("dataset", 3, "config.dataset is 3; must be a text"),
    ],
)
def test_a_value_of_another_type_is_refused(tmp_path, field, value, message):
    """Systems of an experiment are not checked by ml_collections."""
    with pytest.raises(InputError, match=f"^{message}$"):
        config_checks.check_config(small_config(tmp_path).to_dict() | {field: value})


def test_whole_numbers_are_numbers_and_missing_fields_are_named(tmp_path):
    config = small_config(tmp_path).to_dict()
    config_checks.check_config(config | {"alpha": 1, "epochs": np.int64(3)})
    del config["weight_decay"]
    with pytest.raises(InputError, match=r"^config\.weight_decay is missing; configs start from"):
        config_checks.check_config(config)


def test_a_valid_config_passes(tmp_path):
    config_checks.check_config(small_config(tmp_path, scores="frame, psds"))
    assert config_checks.requested_scores({"scores": "frame, psds,"}) == ["frame", "psds"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("scores", "frames"), ("scores", "frame;segment"), ("scores", "frame,psds,segments"), ("scores", "FRAME"),
        ("postprocess", "yes"), ("postprocess", ""), ("tune", "event"), ("tune", "frame,segment"), ("tune", ""),
    ],
)  # fmt: skip
def test_an_unknown_score_or_post_processing_is_refused(tmp_path, field, value):
    with pytest.raises(InputError, match=f"^config.{field} is {value!r}; must be"):
        config_checks.check_config(small_config(tmp_path, **{field: value}))


def test_scores_of_events_need_events(tmp_path):
    assert config_checks.requested_event_scores(small_config(tmp_path, tasks=("scene",), scores="frame")) == []
    assert config_checks.requested_event_scores(small_config(tmp_path, tasks=("event",), scores="frame,psds")) == ["psds"]
    with pytest.raises(InputError, match="asks for segment, psds, but this system detects no events"):
        config_checks.requested_event_scores(small_config(tmp_path, tasks=("scene",), scores="segment,frame,psds"))


def test_scores_are_separated_by_commas(tmp_path):
    config = small_config(tmp_path, scores=" frame, segment ,,event,psds")
    config_checks.check_config(config)
    assert config_checks.requested_scores(config) == ["frame", "segment", "event", "psds"]
    assert config_checks.requested_scores(small_config(tmp_path, scores="")) == []


@pytest.mark.parametrize(
    ("section", "name", "value", "message"),
    [
        ("loss_terms", "smooth", 1.0, "config.loss_terms.smooth: there is no such entry; known: none"),
        ("augmentations", "noise", 0.0, "config.augmentations.noise: there is no such entry; known: same_scene_mixing, "),
        ("augmentations", "same_scene_mixing", 1.5, "config.augmentations.same_scene_mixing is 1.5; a probability must be <= 1"),
        ("loss_terms", "known", -1.0, "config.loss_terms.known is -1.0; must be finite and >= 0"),
        ("loss_terms", "known", float("inf"), "config.loss_terms.known is inf; must be finite and >= 0"),
    ],
)
def test_an_unknown_part_of_training_or_an_invalid_weight_is_refused(tmp_path, monkeypatch, section, name, value, message):
    if name == "known":
        monkeypatch.setitem(config_checks.TERMS, "known", None)
    config = small_config(tmp_path)
    config[section][name] = value
    with pytest.raises(InputError) as refusal:
        config_checks.check_config(config)
    assert str(refusal.value).startswith(message)
