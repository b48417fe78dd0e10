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
    settings.check_workdir(workdir, config)
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
        _refuse(error)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _parse(arguments):
    """Parses the flags; what ml_collections makes of a wrong file, field or value becomes one line."""
    try:
        rest = flags.FLAGS(arguments)
        if _CONFIG.value is None:
            raise flags.IllegalFlagValueError("--config=FILE is missing, e.g. --config=configs/proposed.py:quick")
        _ = _CONFIG.value.name  # a file that can't be loaded shows at the first look at it
    except (KeyError, AttributeError) as error:
        _refuse(f"no config field {error}; configs/default.py lists them all")
    except OSError:
        _refuse(f"{_argument('--config', arguments)}: no such config file")
    except (flags.Error, ValueError, TypeError) as error:
        _refuse(str(error).strip().splitlines()[-1])  # the last line of a traceback that comes as a text
    return rest


def _argument(name, arguments):
    given = " ".join(arguments[1:]).replace(f"{name} ", f"{name}=")
    return next((word.partition("=")[2] for word in given.split() if word.startswith(f"{name}=")), name)


def _refuse(message):
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    app.run(main, flags_parser=_parse)
