"""The frame of every command: flags to a config and a work directory, and one line on standard error for a user's mistake."""

import errno
import logging as python_logging
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, NoReturn

from absl import app, flags, logging

from mfl_jax.errors import LOGGER, InputError, suggest
from mfl_jax.runtime import command_help, config_fields, hosts, installation
from mfl_jax.version import __version__

EXPLAINED_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG, errno.ENAMETOOLONG)
"""System errors whose message tells the user what to fix."""
LESS_MEMORY = "close other programs, or use a device with more memory"
"""Advice of commands without a config when memory runs out."""
HELP = ("--help", "-help", "-h", "-?", "--helpshort", "-helpshort")


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
            exit_with_error(f"unexpected: {' '.join(arguments[1:])}; flags start with --, as in --config=proposed")
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
    print_warnings()
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


class _WarningPrinter(python_logging.Handler):
    def emit(self, record: python_logging.LogRecord) -> None:
        print(f"{record.levelname.lower()}: {record.getMessage()}", file=sys.stderr, flush=True)


def print_warnings() -> None:
    """Prints the warnings of the package in one line each on standard error, `warning: ...`."""
    if not any(isinstance(handler, _WarningPrinter) for handler in LOGGER.handlers):
        LOGGER.addHandler(_WarningPrinter())
        LOGGER.propagate = False  # absl's own handler would print them again
        LOGGER.setLevel(python_logging.WARNING)  # whatever level absl gives the root logger


def _parse_flags(arguments: Sequence[str]) -> list[str]:
    """Parses the flags, after --help and --version; reports a wrong one in one line."""
    _answer_questions(arguments)
    try:
        return flags.FLAGS(arguments)
    except flags.UnrecognizedFlagError as error:
        known = [f"--{flag.name}" for members in command_help.group_flags().values() for flag in members]
        if "config" in flags.FLAGS:
            known += [f"--config.{field.name}" for field in config_fields.read_fields()]
        exit_with_error(f"no flag --{error.flagname}{suggest(f'--{error.flagname}', known)}; --help lists the flags")
    except InputError as error:
        exit_with_error(error)
    except (flags.Error, ValueError, TypeError, KeyError, AttributeError) as error:  # as ml_collections raises them
        exit_with_error(" ".join(str(error).split()).removeprefix("flag "))


def _answer_questions(arguments: Sequence[str]) -> None:
    """Answers --help and --version, and ends the process; refuses a system that the package does not run on."""
    words = list(arguments[1 : arguments.index("--") if "--" in arguments else None])
    if any(word in HELP for word in words):
        print(command_help.format_help(sys.modules["__main__"].__doc__ or ""), end="")
        sys.exit(0)
    if "--helpfull" in words:
        app.usage(writeto_stdout=True)
        sys.exit(0)
    if "--version" in words:
        print(f"mfl_jax {__version__}")
        sys.exit(0)
    try:
        installation.check_system()
    except InputError as error:
        exit_with_error(error)


def _parse_config_flags(arguments: Sequence[str], holders: Flags) -> list[str]:
    """Parses the flags of a command with a config; answers --config_help."""
    asks = "--config_help" in arguments
    rest = _parse_flags([word for word in arguments if word != "--config_help"])
    config = holders.config.value
    if asks:
        print(config_fields.format_fields(config or config_fields.all_defaults()))
        sys.exit(0)
    if config is None:
        exit_with_error("--config=NAME is missing, e.g. --config=proposed:quick or --config=configs/proposed.py:quick")
    return rest


def exit_with_error(message: object) -> NoReturn:
    """Prints an error in one line and ends the process with status 2."""
    sys.exit(_print_error(message))


def _print_error(message: object, status: int = 2) -> int:
    """Prints an error in one line; returns `status`."""
    print(f"error: {message}", file=sys.stderr, flush=True)
    return status
