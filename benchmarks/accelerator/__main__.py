"""Everything to measure on a machine with a GPU or TPU, in one command and at most six minutes.

python -m benchmarks.accelerator [--small] [--pieces=epoch,group,...] [--minutes=6] [--in_process]

Needs JAX, Flax, Optax, Orbax, ml_collections, absl, rich and NumPy, and PyTorch for the comparison. It reads no data set and no
audio, so the packages for those may be missing.

Other benchmarks print one JSON object at the end. This one prints a JSON line per piece as it goes: time on an accelerator is
scarce, so whatever was measured before it ran out is kept. The first line holds the circumstances. Each piece runs in its own
process with a time limit. The line of a piece that failed has an `error`; pieces for which no time is left are `skipped`. A table
follows on standard error. The exit status is 1 if a piece failed.

`--small` runs all pieces with a tiny network, which shows on a CPU that they work; its timings say nothing. `--in_process` runs
them in this process, for tests.
"""

import concurrent.futures
import contextlib
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence

import rich.console
from absl import app, flags, logging

from benchmarks import timing
from benchmarks.accelerator import one_piece, pieces, processes, stand_ins, summary
from benchmarks.accelerator.setting import FULL, SMALL
from mfl_jax.runtime import commandline

SMALL_VARIANTS = ("torch_eager",)
"""The only variants of PyTorch with `--small`: compiling takes minutes on a CPU."""
SMALL_LIMITS = 4
"""Times the limits with `--small`, since CPUs compile slowly."""
TABLE_WIDTH = 130
LEAST_S = 10
"""A piece is not started with less time than this."""


def run_pieces(names: Sequence[str], *, small: bool, in_process: bool, minutes: float) -> Iterator[dict]:
    """Runs pieces stage by stage; yields their figures as they come.

    Args:
      names: of `pieces.PIECES`.
      small: whether to use the tiny network.
      in_process: whether to run them in this process, without time limits.
      minutes: for all of them.
    """
    deadline, platform = time.perf_counter() + 60 * minutes, None

    def run(name: str) -> Iterator[dict]:
        left_s = deadline - time.perf_counter()
        if in_process:
            return _run_here(name, small)
        if left_s < LEAST_S:
            return iter([{"piece": name, "skipped": f"the {minutes:g} minutes are over"}])
        return _run_apart(name, small, left_s, on_gpu=platform == "gpu")

    for stage in pieces.STAGES:
        chosen = [name for name in stage if name in names]
        if platform == "gpu" and len(chosen) > 1:
            with concurrent.futures.ThreadPoolExecutor(len(chosen)) as pool:
                for entries in pool.map(lambda name: list(_time(run(name))), chosen):
                    yield from entries
            continue
        for name in chosen:
            for entry in _time(run(name)):
                platform = entry.get("platform", platform)
                yield entry


def _time(entries: Iterator[dict]) -> Iterator[dict]:
    """Adds the seconds since the entry before."""
    started = time.perf_counter()
    for entry in entries:
        now = time.perf_counter()
        yield {"piece": entry["piece"], "seconds": now - started, **entry}
        started = now


def _run_here(name: str, small: bool) -> Iterator[dict]:
    try:
        yield from pieces.PIECES[name].measure(SMALL if small else FULL)
    except Exception as error:
        yield {"piece": name, "error": one_piece.one_line(error)}


def _run_apart(name: str, small: bool, left_s: float, *, on_gpu: bool) -> Iterator[dict]:
    piece = pieces.PIECES[name]
    command = [sys.executable, "-m", one_piece.__name__, name, *["--small"] * small]
    environment = dict(piece.environment)
    if on_gpu and piece.gpu_flags:
        environment["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {piece.gpu_flags}".strip()
    limit_s = piece.limit_s * (SMALL_LIMITS if small else 1)
    for entry in processes.run(command, min(limit_s, left_s), environment):
        yield {"piece": name, **entry}


@contextlib.contextmanager
def _compilation_cache(small: bool) -> Iterator[None]:
    """Lets the processes share programs, in an empty folder so that times of compilation are right."""
    if small and "JAX_COMPILATION_CACHE_DIR" in os.environ:
        yield
        return
    with tempfile.TemporaryDirectory() as folder:
        os.environ.update(JAX_COMPILATION_CACHE_DIR=folder, JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0")
        yield


def _define_flags() -> Callable[[], list[str]]:
    """Defines the flags; returns a function that reads the names of the pieces to run."""
    flags.DEFINE_bool("small", False, "Run all pieces with a tiny network.")
    flags.DEFINE_bool("in_process", False, "Run the pieces in this process.")
    flags.DEFINE_float("minutes", 6, "For all pieces together.", lower_bound=0)
    flags.DEFINE_list("pieces", [], "Pieces to run; all by default.")

    def read_pieces() -> list[str]:
        known = [name for stage in pieces.STAGES for name in stage]
        if unknown := set(flags.FLAGS.pieces) - set(known):
            commandline.exit_with_error(f"flag --pieces: {', '.join(sorted(unknown))} not among {', '.join(known)}")
        left_out = [name for name in known if flags.FLAGS.small and name.startswith("torch") and name not in SMALL_VARIANTS]
        return ["circumstances", *(flags.FLAGS.pieces or [name for name in known if name not in left_out])]

    return read_pieces


def main(read_pieces: Callable[[], list[str]], arguments: Sequence[str]) -> int:
    """Prints the lines and the table."""
    if arguments[1:]:
        commandline.exit_with_error(f"unexpected: {' '.join(arguments[1:])}")
    names, entries = read_pieces(), []
    logging.set_verbosity(logging.ERROR)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # ends the piece that runs, too
    small, in_process = flags.FLAGS.small, flags.FLAGS.in_process
    if in_process:
        stand_ins.install()

    def report(entry: dict) -> None:
        entries.append(entry)
        shorter = json.loads(json.dumps(entry), parse_float=lambda digits: float(f"{float(digits):.6g}"))
        print(json.dumps(shorter), flush=True)

    with _compilation_cache(small):
        for entry in run_pieces(names, small=small, in_process=in_process, minutes=flags.FLAGS.minutes):
            report(entry)
    for entry in summary.derive(entries):
        report(entry)
    rich.console.Console(stderr=True, width=TABLE_WIDTH).print(summary.make_table(entries[1:]))
    return int(any("error" in entry for entry in entries))


if __name__ == "__main__":
    read = _define_flags()
    app.run(lambda arguments: main(read, arguments), flags_parser=timing.parse_flags)
