"""What a run is told: checks of its config, and the `config.json` that ties a work directory to one config."""

import math
from collections.abc import Mapping

from mfl_jax.errors import InputError
from mfl_jax.network.joint_network import TASKS
from mfl_jax.training.focal_loss import REDUCTIONS
from mfl_jax.training.task_balance import BALANCES

VALIDATIONS = ("none", "fold1", "fold2", "fold3", "fold4")
PRECISIONS = ("default", "high", "highest")
COMPUTE = ("float32", "bfloat16")
ACCELERATORS = ("auto", "cpu", "gpu", "tpu")
SCORES = ("frame", "segment", "event", "psds")
POSTPROCESSES = ("none", "tuned")
TUNED_SCORES = ("frame", "segment")


def check_config(config: Mapping) -> None:
    """Raises an InputError that names the first field whose value makes no sense."""

    def require(field, holds, what):
        if not holds:
            raise InputError(f"config.{field} is {config[field]!r}; {what}")

    for field in ("epochs", "batch_size", "channels", "hidden"):
        require(field, config[field] >= 1, "it is at least 1")
    for field in ("alpha", "beta", "gamma", "zeta", "eta", "slope"):
        require(field, math.isfinite(config[field]) and config[field] >= 0, "it is a number from 0 up")
    require("learning_rate", math.isfinite(config["learning_rate"]) and config["learning_rate"] > 0, "it is above 0")
    require("dropout", 0 <= config["dropout"] < 1, "it is a share below 1")
    require("threshold", 0 < config["threshold"] < 1, "it is a probability between 0 and 1")
    require("reduction", config["reduction"] in REDUCTIONS, f"it is one of {', '.join(REDUCTIONS)}")
    require("balance", config["balance"] in BALANCES, f"it is one of {', '.join(BALANCES)}")
    require(
        "balance", config["balance"] == "fixed" or len(config["tasks"]) == 2, "there is nothing to balance with a single task"
    )
    require("validation", config["validation"] in VALIDATIONS, f"it is one of {', '.join(VALIDATIONS)}")
    require("matmul_precision", config["matmul_precision"] in PRECISIONS, f"it is one of {', '.join(PRECISIONS)}")
    require("compute", config["compute"] in COMPUTE, f"it is one of {', '.join(COMPUTE)}")
    require("tasks", config["tasks"] and not set(config["tasks"]) - set(TASKS), f"it is one or both of {TASKS}")
    require("seed", 0 <= config["seed"] < 2**32, "it is a whole number from 0 to 4294967295")
    require("devices", config["devices"] >= 0, "it is a number of devices, 0 for all")
    require("accelerator", config["accelerator"] in ACCELERATORS, f"it is one of {', '.join(ACCELERATORS)}")
    require("keep_every", config["keep_every"] >= 0, "it is a number of epochs, 0 for none")
    require(
        "scores", set(requested_scores(config)) <= set(SCORES), f"it is some of {', '.join(SCORES)}, with commas between them"
    )
    require("postprocess", config["postprocess"] in POSTPROCESSES, f"it is one of {', '.join(POSTPROCESSES)}")
    require("tune", config["tune"] in TUNED_SCORES, f"it is one of {', '.join(TUNED_SCORES)}")


def requested_scores(config: Mapping) -> list[str]:
    """The kinds of scores that a config asks for."""
    return [kind.strip() for kind in config["scores"].split(",") if kind.strip()]
