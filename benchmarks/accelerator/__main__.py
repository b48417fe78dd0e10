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

import json
import signal
import sys
from collections.abc import Sequence

import rich.console
from absl import app, flags, logging

from benchmarks import timing
from benchmarks.accelerator import schedule, stand_ins, summary
from benchmarks.accelerator.pieces import STAGES
from mfl_jax.errors import InputError
from mfl_jax.runtime import commandline

SMALL_VARIANTS = ("torch_eager",)
"""The only variants of PyTorch with `--small`: compiling takes minutes on a CPU."""
TABLE_WIDTH = 130


def results(*, pieces: Sequence[str] = (), minutes: float = 6, small: bool = False, in_process: bool = False) -> list[dict]:
    """Prints the lines and the table; returns the figures.

    Args:
      pieces: to run, besides the circumstances; all by default.
      minutes: for all of them.
      small: whether to use a tiny network.
      in_process: whether to run them in this process.

    Raises:
      InputError: a piece is unknown.
    """
    known = [name for stage in STAGES for name in stage]
    if unknown := set(pieces) - set(known):
        raise InputError(f"flag --pieces: {', '.join(sorted(unknown))} not among {', '.join(known)}")
    by_default = [name for name in known if not small or not name.startswith("torch") or name in SMALL_VARIANTS]
    entries: list[dict] = []

    def report(entry: dict) -> None:
        entries.append(entry)
        shorter = json.loads(json.dumps(entry), parse_float=lambda digits: float(f"{float(digits):.6g}"))
        print(json.dumps(shorter), flush=True)

    if in_process:
        stand_ins.install()
    names = ["circumstances", *(pieces or by_default)]
    with schedule.compilation_cache(small):
        for entry in schedule.run_pieces(names, small=small, in_process=in_process, minutes=minutes):
            report(entry)
    for entry in summary.derive(entries):
        report(entry)
    rich.console.Console(stderr=True, width=TABLE_WIDTH).print(summary.make_table(entries[1:]))
    return entries


def main(arguments: Sequence[str]) -> int:
    """Runs the benchmark as the flags say; returns the exit status."""
    if arguments[1:]:
        commandline.exit_with_error(f"unexpected: {' '.join(arguments[1:])}")
    logging.set_verbosity(logging.ERROR)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # ends the piece that runs, too
    names = ("pieces", "minutes", "small", "in_process")
    try:
        entries = results(**{name: flags.FLAGS[name].value for name in names})
    except InputError as error:
        commandline.exit_with_error(error)
    return int(any("error" in entry for entry in entries))


if __name__ == "__main__":
    flags.DEFINE_list("pieces", [], "Pieces to run; all by default.")
    flags.DEFINE_float("minutes", 6, "For all pieces together.", lower_bound=0)
    flags.DEFINE_bool("small", False, "Run all pieces with a tiny network.")
    flags.DEFINE_bool("in_process", False, "Run the pieces in this process.")
    app.run(main, flags_parser=timing.parse_flags)
