"""Paired timings for shared machines: the sides take turns, and their medians are compared. Also runs benchmarks as commands."""

import contextlib
import datetime
import functools
import inspect
import json
import multiprocessing
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import rich.console
import rich.table
from absl import app, flags, logging

from mfl_jax.errors import InputError
from mfl_jax.runtime import commandline, history


def alternate(sides: Mapping[str, Callable[[], object]], rounds: int) -> dict:
    """Times each side once per round, after one warm-up round.

    Args:
      sides: name -> function to time, including the time until its result is ready.
      rounds: number of timed rounds.

    Returns:
      name -> {"median_s", "lowest_s", "highest_s"}.
    """
    times: dict[str, list[float]] = {name: [] for name in sides}
    for round_number in range(rounds + 1):
        for name, side in sides.items():
            started = time.perf_counter()
            jax.block_until_ready(side())
            if round_number:
                times[name].append(time.perf_counter() - started)
    return {name: spread(side_times) for name, side_times in times.items()}


def alternate_apart(sides: Mapping[str, tuple], rounds: int, check: Callable[[str, Any, Any], None]) -> dict:
    """Like `alternate`, but with a separate process for each side, so that their threads and memory do not interfere.

    Args:
      sides: name -> (module-level function, its arguments ...); the function returns the function to time and its result.
      rounds: number of timed rounds.
      check: called with the name and the result of each side but the first, and the result of the first; raises if they differ.

    Returns:
      As `alternate`, plus `peak_memory_mb` of each process.
    """
    context = multiprocessing.get_context("spawn")
    with contextlib.ExitStack() as stack:
        connections, first_result = {}, None
        for name, (build, *arguments) in sides.items():
            connection, child_connection = context.Pipe()
            process = context.Process(target=_serve, args=(child_connection, build, arguments), daemon=True)
            process.start()
            child_connection.close()
            stack.callback(process.join)
            stack.callback(connection.close)
            connections[name] = connection
            result = connection.recv()  # wait here, so that only one side builds at a time
            if first_result is None:
                first_result = result
            else:
                check(name, result, first_result)

        memory_mb = {}

        def call_side(name):
            connections[name].send(None)
            memory_mb[name] = connections[name].recv()

        times = alternate({name: functools.partial(call_side, name) for name in connections}, rounds)
        return {name: {**times[name], "peak_memory_mb": memory_mb[name]} for name in connections}


def _serve(connection, build, arguments) -> None:
    """Builds a side, then runs it once for each message."""
    call, result = build(*arguments)
    connection.send(result)
    with contextlib.suppress(EOFError):
        while True:
            connection.recv()
            jax.block_until_ready(call())
            connection.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def spread(times: list[float]) -> dict:
    """Median and range of the times of a side, in seconds."""
    return {"median_s": statistics.median(times), "lowest_s": min(times), "highest_s": max(times)}


def peak_memory_mb(code: str, *arguments) -> float:
    """Runs `code` in a Python process with these arguments; returns its peak memory.

    Raises:
      RuntimeError: the process failed.
    """
    process = subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)])
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"the process ended with status {process.returncode}")
    return usage.ru_maxrss / 1024


def describe_environment(*packages: str) -> dict:
    """Date, hardware and software versions; `packages` adds the versions of further packages."""
    return {
        "date": datetime.date.today().isoformat(),
        "python": platform.python_version(),
        "cpu": _read_cpu_name(),
        "cpu_count": len(os.sched_getaffinity(0)),
        "device": jax.devices()[0].device_kind,
        "versions": {name: history.package_version(name) for name in ("mfl_jax", "jax", "jaxlib", "flax", "optax", *packages)},
    }


def _read_cpu_name() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.split(":")[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def run(benchmark: Callable[..., list[dict]], *packages: str) -> None:
    """Runs a benchmark as a command: prints a table to standard error and one JSON object to standard output.

    Args:
      benchmark: returns one entry per setting, with numbers, strings and results of `spread`. Its keyword arguments become flags
        with the same defaults; a default must be an integer, a string or a tuple of either.
      packages: further packages whose versions are reported.
    """
    for name, parameter in inspect.signature(benchmark).parameters.items():
        default = parameter.default
        define = {int: flags.DEFINE_integer, str: flags.DEFINE_string, tuple: flags.DEFINE_list}[type(default)]
        define(name, [str(value) for value in default] if isinstance(default, tuple) else default, "see the help text above")
    app.run(lambda arguments: _run(benchmark, packages, arguments[1:]), flags_parser=parse_flags)


def parse_flags(arguments: Sequence[str]) -> list[str]:
    """Parses the flags of a benchmark; reports a wrong one in one line."""
    try:
        return flags.FLAGS(arguments)
    except flags.Error as error:
        commandline.exit_with_error(error)


def _read_options(benchmark) -> dict:
    options = {}
    for name, parameter in inspect.signature(benchmark).parameters.items():
        value = flags.FLAGS[name].value
        if isinstance(parameter.default, tuple):
            try:
                value = tuple(map(type(next(iter(parameter.default), "")), value))
            except ValueError:
                commandline.exit_with_error(f"flag --{name}={','.join(value)}: must be numbers separated by commas")
        options[name] = value
    return options


def _run(benchmark, packages, rest):
    if rest:
        commandline.exit_with_error(f"unexpected: {' '.join(rest)}")
    logging.set_verbosity(logging.ERROR)
    commandline.print_warnings()
    options = _read_options(benchmark)
    try:
        results = benchmark(**options)
    except InputError as error:
        commandline.exit_with_error(error)
    _print_table(results)
    name = sys.modules["__main__"].__spec__.name.removesuffix(".__main__")
    print(json.dumps({"benchmark": name, "results": results, **describe_environment(*packages)}))


def _print_table(results) -> None:
    flat = [dict(_flatten(result)) for result in results]
    names = list(dict.fromkeys(name for result in flat for name in result))
    rows = [[name, *(_format(result.get(name)) for result in flat)] for name in names]
    table = rich.table.Table(show_header=False)
    # The longer axis goes down the page.
    for row in rows if len(rows) > len(flat) else zip(*rows, strict=True):
        table.add_row(*row)
    rich.console.Console(stderr=True).print(table)


def _flatten(result: Mapping, prefix: str = ""):
    for name, value in result.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}.")
        elif not name.endswith(("lowest_s", "highest_s")):
            yield prefix + name, value


def _format(value) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
