"""The frame of every command: flags to a config and a work directory, and one line on standard error for a user's mistake."""

import errno
import logging as python_logging
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, NoReturn

from absl import app, flags, logging

from mfl_jax.errors import InputError
from mfl_jax.runtime import hosts

EXPLAINED_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG, errno.ENAMETOOLONG)
"""System errors whose message tells the user what to fix."""
LESS_MEMORY = "close other programs, or use a device with more memory"
"""Advice of commands without a config when memory runs out."""


class Flags(NamedTuple):
    """The holders of the flags --config and --workdir."""

    config: flags.FlagHolder
    workdir: flags.FlagHolder


def run_with_config(command: Callable[..., int], holders: Flags) -> None:
    """Parses the flags, joins the other hosts, and ends the process with the status of `command(config, workdir)`."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    hosts.define_flags()

    def main(arguments: Sequence[str]) -> int:
        if len(arguments) > 1:
            raise app.UsageError(f"unexpected: {' '.join(arguments[1:])}")
        config = holders.config.value
        fields = [field for field in ("members_at_once", "batch_size", "channels") if field in config]
        return _report_errors(
            lambda: _join_and_run(command, config, holders.workdir.value or f"runs/{config.name}"),
            f"lower {' or '.join(f'config.{field}' for field in fields)}",
        )

    app.run(main, flags_parser=lambda arguments: _parse_config_flags(arguments, holders))


def run_with_arguments(command: Callable[[list[str]], int]) -> None:
    """Parses the flags and ends the process with the status of `command(arguments)`, where flags are left out."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    app.run(lambda arguments: _report_errors(lambda: command(arguments[1:])), flags_parser=_parse_flags)


def _join_and_run(command: Callable[..., int], config: Any, workdir: str) -> int:
    hosts.join_cluster()
    from mfl_jax.runtime import storage  # imported here, so that --help and wrong flags answer at once

    return command(config, storage.resolve_folder(workdir))


def _report_errors(command: Callable[[], int], less_memory: str = LESS_MEMORY) -> int:
    """Calls a command; reports a user's mistake, memory that ran out, or a file that the system refuses to write, in one line.

    Args:
      command: returns the exit status.
      less_memory: what to do when memory runs out.
    """
    logging.set_verbosity(logging.ERROR)
    # Orbax logs more errors for a broken checkpoint than the one that is reported.
    python_logging.getLogger("asyncio").setLevel(python_logging.CRITICAL)
    try:
        return command()
    except InputError as error:
        status = _print_error(error)
        hosts.exit_after_refusal(status)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        status = 130
    except Exception as error:
        if isinstance(error, OSError) and error.errno in EXPLAINED_ERRORS:
            advice = "files written before are intact; once this is fixed, the same command goes on"
            status = _print_error(f"{error.filename or 'writing'}: {error.strerror}; {advice}")
        elif _is_out_of_memory(error):
            reason = " ".join(str(error).split())[:200]
            status = _print_error(f"out of memory; {less_memory}{f' ({reason})' if reason else ''}")
        elif hosts.is_lost_host_error(error):
            reason = str(error).splitlines()[0][:200]
            status = _print_error(f"another process of this run was lost ({reason}); {hosts.WHAT_TO_DO}", hosts.LOST)
        else:
            hosts.exit_without_waiting(1)
            raise
    hosts.exit_without_waiting(status)
    sys.exit(status)


def _is_out_of_memory(error: Exception) -> bool:
    """Returns whether the machine or a device had no memory left, as the system, NumPy or JAX report it."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    jax = sys.modules.get("jax")
    signs = ("resource_exhausted", "out of memory", "out_of_memory", "bad_alloc")
    return jax is not None and isinstance(error, jax.errors.JaxRuntimeError) and any(sign in str(error).lower() for sign in signs)


def _parse_flags(arguments: Sequence[str]) -> list[str]:
    try:
        return flags.FLAGS(arguments)
    except flags.Error as error:
        exit_with_error(error)


def _parse_config_flags(arguments: Sequence[str], holders: Flags) -> list[str]:
    """Parses the flags; reports what ml_collections raises for a wrong file, field or value in one line."""
    try:
        rest = flags.FLAGS(arguments)
        if holders.config.value is None:
            raise flags.IllegalFlagValueError("--config=FILE is missing, e.g. --config=configs/proposed.py:quick")
        _ = holders.config.value.name  # reading a field loads the file
    except (KeyError, AttributeError) as error:
        # ml_collections quotes its message once more, which escapes its quotes and line breaks.
        message = re.sub(r"\\+n", "; ", str(error)).replace("\\", "").strip("'")
        exit_with_error(f"no config field '{message}; configs/default.py lists them all")
    except OSError:
        exit_with_error(f"{_flag_text('--config', arguments)}: no such config file")
    except (flags.Error, ValueError, TypeError) as error:
        last_line = str(error).strip().splitlines()[-1]  # ml_collections puts a whole traceback into the message
        exit_with_error(last_line.removeprefix("ValueError: "))
    return rest


def _flag_text(name: str, arguments: Sequence[str]) -> str:
    """Returns the value of a flag as typed, `--name=value` or `--name value`."""
    words = " ".join(arguments[1:]).replace(f"{name} ", f"{name}=").split()
    return next((word.partition("=")[2] for word in words if word.startswith(f"{name}=")), name)


def exit_with_error(message: object) -> NoReturn:
    """Prints an error in one line and ends the process with status 2."""
    sys.exit(_print_error(message))


def _print_error(message: object, status: int = 2) -> int:
    """Prints an error in one line; returns `status`."""
    print(f"error: {message}", file=sys.stderr, flush=True)
    return status
