"""Paired timings on machines that others use too: the sides take turns, and medians are compared."""

import contextlib
import datetime
import functools
import importlib.metadata
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
from collections.abc import Callable, Mapping
from typing import Any

import jax
import rich.console
import rich.table
from absl import app, flags, logging

from mfl_jax.errors import InputError
from mfl_jax.runtime import commandline


def alternate(sides: Mapping[str, Callable[[], object]], rounds: int) -> dict:
    """Times each side once a round, after one round that does not count.

    Args:
      sides: name -> a call whose result is waited for.

    Returns:
      name -> {"median_s", "lowest_s", "highest_s"}.
    """
    times: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name, side in sides.items():
            started = time.perf_counter()
            jax.block_until_ready(side())
            if number:
                times[name].append(time.perf_counter() - started)
    return {name: spread(taken) for name, taken in times.items()}


def alternate_apart(sides: Mapping[str, tuple], rounds: int, check: Callable[[str, Any, Any], None]) -> dict:
    """As `alternate`, each side in a process of its own, so that neither threads nor the memory of one get into the other's way.

    Args:
      sides: name -> (a function of a module, its arguments ...), which returns the call to time, and what it computes.
      check: called with the name of each side but the first, what it computes and what the first one does; raises where they
        are not the same.

    Returns:
      As `alternate`, and `peak_memory_mb` of the process of each side.
    """
    context = multiprocessing.get_context("spawn")
    with contextlib.ExitStack() as stack:
        ends, first = {}, None
        for name, (build, *arguments) in sides.items():
            end, other = context.Pipe()
            process = context.Process(target=_serve, args=(other, build, arguments), daemon=True)
            process.start()
            other.close()
            stack.callback(process.join)
            stack.callback(end.close)
            ends[name] = end
            computed = end.recv()  # one after another: none builds while another does
            if first is None:
                first = computed
            else:
                check(name, computed, first)

        memory = {}

        def ask(name):
            ends[name].send(None)
            memory[name] = ends[name].recv()

        times = alternate({name: functools.partial(ask, name) for name in ends}, rounds)
        return {name: {**times[name], "peak_memory_mb": memory[name]} for name in ends}


def _serve(end, build, arguments) -> None:
    call, computed = build(*arguments)
    end.send(computed)
    with contextlib.suppress(EOFError):
        while True:
            end.recv()
            jax.block_until_ready(call())
            end.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def spread(times: list[float]) -> dict:
    """What is reported of the times of a side, in seconds."""
    return {"median_s": statistics.median(times), "lowest_s": min(times), "highest_s": max(times)}


def peak_memory_mb(code: str, *arguments) -> float:
    """Peak memory of a Python process that runs `code` with some arguments."""
    process = subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)])
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"the process ended with status {process.returncode}")
    return usage.ru_maxrss / 1024


def circumstances(*packages: str) -> dict:
    """What a figure depends on beside the code; `packages` are named beside those that always count."""
    return {
        "date": datetime.date.today().isoformat(),
        "python": platform.python_version(),
        "cpu": _cpu(),
        "cpu_count": len(os.sched_getaffinity(0)),
        "device": jax.devices()[0].device_kind,
        "versions": {name: importlib.metadata.version(name) for name in ("mfl_jax", "jax", "jaxlib", "flax", "optax", *packages)},
    }


def _cpu() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.split(":")[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def run(benchmark: Callable[..., list[dict]], *packages: str) -> None:
    """Runs a benchmark: a table for a person goes to the standard error stream, one JSON object to the standard output.

    Args:
      benchmark: returns an entry a setting; numbers, texts, and the sides' `spread`. Its keyword arguments become flags of the
        command, with the same defaults: numbers, texts, and tuples of either.
      packages: whose versions count beside those that always do.
    """
    for name, parameter in inspect.signature(benchmark).parameters.items():
        default = parameter.default
        define = {int: flags.DEFINE_integer, str: flags.DEFINE_string, tuple: flags.DEFINE_list}[type(default)]
        define(name, [str(value) for value in default] if isinstance(default, tuple) else default, "see above")
    app.run(lambda arguments: _run(benchmark, packages, arguments[1:]), flags_parser=_parse)


def _parse(arguments):
    try:
        return flags.FLAGS(arguments)
    except flags.Error as error:
        commandline.exit_with_error(error)


def _run(benchmark, packages, rest):
    if rest:
        commandline.exit_with_error(f"unexpected: {' '.join(rest)}")
    logging.set_verbosity(logging.ERROR)
    options = {}
    for name, parameter in inspect.signature(benchmark).parameters.items():
        value = flags.FLAGS[name].value
        if isinstance(parameter.default, tuple):
            try:
                value = tuple(map(type(next(iter(parameter.default), "")), value))
            except ValueError:
                commandline.exit_with_error(f"flag --{name}={','.join(value)}: numbers with commas between them are meant")
        options[name] = value
    try:
        results = benchmark(**options)
    except InputError as error:
        commandline.exit_with_error(error)
    flat = [dict(_flat(result)) for result in results]
    names = list(dict.fromkeys(name for result in flat for name in result))
    rows = [[name, *(_text(result.get(name)) for result in flat)] for name in names]
    table = rich.table.Table(show_header=False)
    # Whatever there is more of goes down the page.
    for row in rows if len(rows) > len(flat) else zip(*rows, strict=True):
        table.add_row(*row)
    rich.console.Console(stderr=True).print(table)
    print(json.dumps({"benchmark": sys.modules["__main__"].__spec__.name, "results": results, **circumstances(*packages)}))


def _flat(result: Mapping, prefix: str = ""):
    for name, value in result.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        elif not name.endswith(("lowest_s", "highest_s")):
            yield prefix + name, value


def _text(value) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
