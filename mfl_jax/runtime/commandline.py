"""What the commands share: a config and a work directory from flags, and one line where a user went wrong."""

import errno
import logging as python_logging
import os
import sys
from collections.abc import Callable
from typing import NamedTuple

from absl import app, flags, logging

from mfl_jax.errors import InputError
from mfl_jax.runtime import hosts

REFUSED_BY_SYSTEM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG, errno.ENAMETOOLONG)
"""Errors of the system that say what to do about them."""


class Flags(NamedTuple):
    """The holders of the flags --config and --workdir."""

    config: flags.FlagHolder
    workdir: flags.FlagHolder


def start(run: Callable, held: Flags) -> None:
    """Parses the flags, joins other hosts and calls `run(config, workdir)`; the process ends with the status that it returns."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    hosts.define_flags()
    app.run(lambda arguments: _main(arguments, run, held), flags_parser=lambda arguments: _parse(arguments, held))


def start_without_config(run: Callable) -> None:
    """Parses the flags and calls `run(arguments)` with what is no flag; the process ends with the status that it returns."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    app.run(lambda arguments: _answered(lambda: run(arguments[1:])), flags_parser=_parse_flags)


def _main(arguments, run, held):
    if len(arguments) > 1:
        raise app.UsageError(f"unexpected: {' '.join(arguments[1:])}")
    config = held.config.value

    def joined():
        hosts.join()
        from mfl_jax.runtime import storage  # imported here, so that --help and wrong flags answer at once

        return run(config, storage.resolve_folder(held.workdir.value or f"runs/{config.name}"))

    return _answered(joined)


def _answered(call):
    """Calls a command; what a user did wrong, or what the system refuses to write, is answered in one line."""
    logging.set_verbosity(logging.ERROR)
    # Of a checkpoint that can't be written or read, Orbax leaves more errors behind than the one that is answered.
    python_logging.getLogger("asyncio").setLevel(python_logging.CRITICAL)
    try:
        return call()
    except InputError as error:
        status = _said(error)
    except OSError as error:
        if error.errno not in REFUSED_BY_SYSTEM:
            raise
        what = "what was written before is whole; mend that, and the same command goes on"
        status = _said(f"{error.filename or 'writing'}: {error.strerror}; {what}")
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        status = 130
    except Exception as error:
        if not hosts.is_lost_host_error(error):
            hosts.exit_without_waiting(1)
            raise
        status = _said(
            f"another process of this run was lost ({str(error).splitlines()[0][:200]}); {hosts.WHAT_TO_DO}", hosts.LOST
        )
    hosts.exit_without_waiting(status)
    sys.exit(status)


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
    sys.exit(_said(message))


def _said(message, status=2) -> int:
    print(f"error: {message}", file=sys.stderr)
    return status
