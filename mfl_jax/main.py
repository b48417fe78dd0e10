"""Trains and evaluates: flags to one call.

python -m mfl_jax.main --config=configs/proposed.py [--config.FIELD=VALUE ...] [--workdir=DIR] [--mode=train|evaluate]
"""

import os
import pathlib
import sys

from absl import app, flags, logging
from ml_collections import config_flags

from mfl_jax.errors import InputError

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "A file of configs/, e.g. configs/proposed.py or configs/proposed.py:quick."
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run; runs/<name of the config> by default.")
_MODE = flags.DEFINE_enum(
    "mode", "train", ["train", "evaluate", "prepare"], "train ends with evaluate; prepare only prepares the data."
)


def run(config, workdir: pathlib.Path, mode: str) -> int:
    """Does what the flags say; returns the exit status."""
    # Imported here, so that --help and wrong flags answer at once, and processes that extract features start fast.
    from mfl_jax import prepare, settings

    settings.check_config(config)
    if config.note:
        print(config.note, flush=True)
    dataset = prepare.dataset_of(config)
    if mode == "prepare":
        return 0
    from mfl_jax import evaluate, train

    if mode == "train" and not train.train(config, dataset, workdir):
        return 130
    evaluate.evaluate(config, dataset, workdir)
    return 0


def main(arguments):
    """Runs, and turns a user's mistake into one line."""
    if len(arguments) > 1:
        raise app.UsageError(f"unexpected: {' '.join(arguments[1:])}")
    logging.set_verbosity(logging.ERROR)
    config = _CONFIG.value
    try:
        return run(config, pathlib.Path(_WORKDIR.value or pathlib.Path("runs", config.name)).expanduser(), _MODE.value)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _parse(arguments):
    try:
        rest = flags.FLAGS(arguments)
        if _CONFIG.value is None and "--help" not in arguments:
            raise flags.IllegalFlagValueError("--config=FILE is missing, e.g. --config=configs/proposed.py:quick")
    except (flags.Error, OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        # ml_collections raises the last ones for a config file or field that does not exist or has another type.
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    return rest


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    app.run(main, flags_parser=_parse)
