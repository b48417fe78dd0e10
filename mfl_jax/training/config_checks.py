"""Checks the fields of a config before anything is built from it."""

import math
import numbers
from collections.abc import Mapping

from mfl_jax.errors import InputError
from mfl_jax.network.joint_network import TASKS
from mfl_jax.runtime import config_fields
from mfl_jax.training.augmentations import AUGMENTATIONS
from mfl_jax.training.focal_loss import REDUCTIONS
from mfl_jax.training.loss_terms import TERMS
from mfl_jax.training.optimiser import DECAYS, OPTIMISERS
from mfl_jax.training.steps import LOSS_SCALARS
from mfl_jax.training.task_balance import BALANCES

VALIDATIONS = ("none", "fold1", "fold2", "fold3", "fold4")
PRECISIONS = ("default", "high", "highest")
COMPUTE = ("float32", "bfloat16")
ACCELERATORS = ("auto", "cpu", "gpu", "tpu")
SCORES = ("frame", "segment", "event", "psds")
POSTPROCESSES = ("none", "tuned")
TUNED_SCORES = ("frame", "segment")

EVENT_FIELDS = ("prior_bias", "rare_event_sampling")
CHOICES = {
    "reduction": REDUCTIONS,
    "balance": BALANCES,
    "validation": VALIDATIONS,
    "optimiser": tuple(OPTIMISERS),
    "learning_rate_decay": DECAYS,
    "matmul_precision": PRECISIONS,
    "compute": COMPUTE,
    "accelerator": ACCELERATORS,
    "postprocess": POSTPROCESSES,
    "tune": TUNED_SCORES,
}
"""Fields that name one of a few options."""
TYPES: dict[type, tuple[type, str]] = {
    bool: (bool, "True or False"),
    int: (numbers.Integral, "a whole number"),
    float: (numbers.Real, "a number"),
    str: (str, "a text"),
}
"""Type of a default -> the type that values of the field must have, and its name."""


def check_config(config: Mapping) -> None:
    """Raises an InputError that names the first invalid field, its value and the valid ones."""
    _check_types(config)
    for field in ("epochs", "batch_size", "channels", "hidden"):
        _require(config, field, config[field] >= 1, "must be >= 1")
    for field in (*LOSS_SCALARS, *EVENT_FIELDS, "slope", "warmup_epochs", "weight_decay"):
        _require(config, field, math.isfinite(config[field]) and config[field] >= 0, "must be finite and >= 0")
    for field in EVENT_FIELDS:
        _require(config, field, "event" in config["tasks"] or not config[field], "must be 0: this system detects no events")
    _check_section(config, "loss_terms", TERMS)
    _check_section(config, "augmentations", AUGMENTATIONS)
    probability = config["augmentations"].get("same_scene_mixing", 0)
    if probability > 1:
        raise InputError(f"config.augmentations.same_scene_mixing is {probability!r}; a probability must be <= 1")
    rate = config["learning_rate"]
    _require(config, "learning_rate", math.isfinite(rate) and rate > 0, "must be finite and > 0")
    _require(config, "warmup_epochs", config["warmup_epochs"] <= config["epochs"], f"must be at most {config['epochs']} (epochs)")
    decay = config["weight_decay"]
    _require(
        config, "weight_decay", decay * rate < 1, f"must be below {1 / rate:g}, 1 / learning_rate: weights would change sign"
    )
    rate = config["balance_learning_rate"]
    _require(config, "balance_learning_rate", math.isfinite(rate) and rate >= 0, "must be finite and >= 0")
    _require(config, "min_clip_share", 0 <= config["min_clip_share"] <= 1, "must be from 0 to 1")
    _require(config, "random_crops", 0 <= config["random_crops"] <= 1, "must be from 0 to 1")
    _require(config, "ema_decay", 0 <= config["ema_decay"] < 1, "must be >= 0 and < 1")
    _require(config, "dropout", 0 <= config["dropout"] < 1, "must be >= 0 and < 1")
    _require(config, "threshold", 0 < config["threshold"] < 1, "must be > 0 and < 1")
    for field, options in CHOICES.items():
        _require(config, field, config[field] in options, f"must be one of {', '.join(options)}")
    balanced = config["balance"] == "fixed" or len(config["tasks"]) == 2
    _require(config, "balance", balanced, "must be fixed: there is nothing to balance with a single task")
    valid_tasks = config["tasks"] and set(config["tasks"]) <= set(TASKS)
    _require(config, "tasks", valid_tasks, f"must be one or both of {', '.join(TASKS)}")
    _require(config, "seed", 0 <= config["seed"] < 2**32, "must be from 0 to 4294967295")
    _require(config, "devices", config["devices"] >= 0, "must be a number of devices, or 0 for all")
    _require(config, "keep_every", config["keep_every"] >= 0, "must be a number of epochs, or 0 for none")
    valid_scores = set(requested_scores(config)) <= set(SCORES)
    _require(config, "scores", valid_scores, f"must be some of {', '.join(SCORES)}, separated by commas")


def _check_types(config: Mapping) -> None:
    """Checks that every field of the default config is there, and is a number or a text if the default is one."""
    for field, standard in config_fields.run_defaults().items():
        if field not in config:
            raise InputError(f"config.{field} is missing; configs start from configs/default.py, which has all fields")
        if type(standard) in TYPES:
            expected, name = TYPES[type(standard)]
            valid = isinstance(config[field], expected) and isinstance(config[field], bool) == isinstance(standard, bool)
            _require(config, field, valid, f"must be {name}")


def _check_section(config: Mapping, section: str, known: Mapping[str, object]) -> None:
    """Checks that the fields of a section are known, and that their values are finite and not negative."""
    for name, value in config[section].items():
        place = f"config.{section}.{name}"
        if name not in known:
            raise InputError(
                f"{place}: there is no such entry; known: {', '.join(known) or 'none'} (mfl_jax/training/{section}.py)"
            )
        if not (math.isfinite(value) and value >= 0):
            raise InputError(f"{place} is {value!r}; must be finite and >= 0")


def _require(config: Mapping, field: str, valid: object, rule: str) -> None:
    if not valid:
        raise InputError(f"config.{field} is {config[field]!r}; {rule}")


def requested_scores(config: Mapping) -> list[str]:
    """Lists the kinds of scores that a config asks for."""
    return [kind.strip() for kind in config["scores"].split(",") if kind.strip()]


def requested_event_scores(config: Mapping) -> list[str]:
    """Lists the kinds of scores that a config asks for in addition to the paper's; they need the packages of the extra `eval`.

    Raises:
      InputError: there are some, but the system detects no events.
    """
    kinds = [kind for kind in requested_scores(config) if kind != "frame"]
    if kinds and "event" not in config["tasks"]:
        raise InputError(f"config.scores asks for {', '.join(kinds)}, but this system detects no events")
    return kinds
