"""What the commands share: a config and a work directory from flags, and one line where a user went wrong."""

import os
import pathlib
import sys
from collections.abc import Callable
from typing import NamedTuple

from absl import app, flags, logging

from mfl_jax.errors import InputError


class Flags(NamedTuple):
    """The holders of the flags --config and --workdir."""

    config: flags.FlagHolder
    workdir: flags.FlagHolder


def start(run: Callable, held: Flags) -> None:
    """Parses the flags and calls `run(config, workdir)`; the process ends with the status that it returns."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    app.run(lambda arguments: _main(arguments, run, held), flags_parser=lambda arguments: _parse(arguments, held))


def start_without_config(run: Callable) -> None:
    """Parses the flags and calls `run(arguments)` with what is no flag; the process ends with the status that it returns."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    app.run(lambda arguments: _answered(lambda: run(arguments[1:])), flags_parser=_parse_flags)


def _main(arguments, run, held):
    if len(arguments) > 1:
        raise app.UsageError(f"unexpected: {' '.join(arguments[1:])}")
    config = held.config.value
    workdir = pathlib.Path(held.workdir.value or pathlib.Path("runs", config.name)).expanduser()
    return _answered(lambda: run(config, workdir))


def _answered(call):
    """Calls a command; what a user did wrong is answered in one line."""
    logging.set_verbosity(logging.ERROR)
    try:
        return call()
    except InputError as error:
        refuse(error)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _parse_flags(arguments):
    try:
        return flags.FLAGS(arguments)
    except flags.Error as error:
        refuse(error)


def _parse(arguments, held):
    """Parses the flags; what ml_collections makes of a wrong file, field or value becomes one line."""
    try:
        rest = flags.FLAGS(arguments)
        if held.config.value is None:
            raise flags.IllegalFlagValueError("--config=FILE is missing, e.g. --config=configs/proposed.py:quick")
        _ = held.config.value.name  # a file that can't be loaded shows at the first look at it
    except (KeyError, AttributeError) as error:
        refuse(f"no config field {error}; configs/default.py lists them all")
    except OSError:
        refuse(f"{_argument('--config', arguments)}: no such config file")
    except (flags.Error, ValueError, TypeError) as error:
        refuse(str(error).strip().splitlines()[-1])  # the last line of a traceback that comes as a text
    return rest


def _argument(name, arguments):
    given = " ".join(arguments[1:]).replace(f"{name} ", f"{name}=")
    return next((word.partition("=")[2] for word in given.split() if word.startswith(f"{name}=")), name)


def refuse(message) -> None:
    """Says what is wrong in one line, and ends the process with status 2."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)
