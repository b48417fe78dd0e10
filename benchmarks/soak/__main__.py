"""Kills runs with SIGKILL at random moments, again and again, and compares their outcomes with those of undisturbed runs.

python -m benchmarks.soak [--kills=50] [--seed=0] [--workdir=DIR] [--epochs=40] [--recordings=24] [--commands=3]

Three commands are killed: training, preparing a data set, and an experiment of two systems with two seeds. Each is killed and
started again until it finishes; then it is compared and started from scratch, until its share of the kills is used up. A process
is stopped (SIGSTOP) before it is killed, so that the files in its work directory show the phase of the kill. Only processes that
were alive at that moment count.

Phases of training and of an experiment; the first that holds counts:
  start       no epoch has been written since this start
  dealing     (experiment) the checkpoint of a member has its temporary name
  clearing    (experiment) the checkpoints of a group whose members have results are being removed
  sums        the checksums of a checkpoint are being written
  metrics     a file of the run, such as metrics.jsonl, has its temporary name
  deletion    an old checkpoint is half deleted
  checkpoint  a checkpoint has its temporary name
  finish      scores exist, or are all that is missing
  step        none of these
Phases of a preparation: start; spectrograms; shards; sealing, when only the name of its folder is missing; finish, when the data
set is complete.

Fields of the output:
  lost          number of things that a kill must not cost: a value, array or example that differs from the undisturbed run; an
                epoch or spectrogram that was saved and computed again; a lock that is not free; a second run that is not refused
  left          number of files that the undisturbed run does not leave
  what          one line for each of these
  resumed       starts that were seen to resume from what an earlier one had saved
  while_saving  kills while a checkpoint or its checksums were written, or an old checkpoint was deleted

At the end, each file of the newest checkpoint is damaged, by flipping a bit and by truncation; the checkpoint must be passed over
for the one before. The exit status is 1 if anything was lost or left.
"""

import concurrent.futures
import functools
import os
import pathlib
import sys
import tempfile
import time

from benchmarks import timing
from benchmarks.soak.damage import damage_checkpoints
from benchmarks.soak.inputs import write_inputs
from benchmarks.soak.killing import COUNTED, Soak
from benchmarks.soak.kinds import share_kills
from mfl_jax.errors import InputError
from mfl_jax.runtime.progress import progress_bar


def kill_all_kinds(soak: Soak, shares: dict[str, int]) -> dict[str, dict]:
    """Kills the kinds side by side; returns the counts of each."""
    with concurrent.futures.ThreadPoolExecutor(min(3, len(os.sched_getaffinity(0)))) as pool:
        try:
            futures = {name: pool.submit(soak.kill_repeatedly, name, kills) for name, kills in shares.items()}
            done, _ = concurrent.futures.wait(futures.values(), return_when=concurrent.futures.FIRST_EXCEPTION)
            for future in done:
                future.result()  # raises the first error
            return {name: future.result() for name, future in futures.items()}
        finally:
            soak.stopping.set()


def measure(folder: pathlib.Path, kills: int, seed: int, epochs: int, recordings: int, commands: int) -> dict:
    """Runs the soak test in a folder that is empty or does not exist yet.

    Raises:
      InputError: the folder is not empty, or a flag is invalid.
    """
    started, shares = time.monotonic(), share_kills(kills)
    if epochs < 3 or recordings < 2:
        raise InputError("flags --epochs and --recordings: must be at least 3 and 2")
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise InputError(f"flag --workdir={folder}: is not empty; use another folder")
    write_inputs(folder, recordings)
    with progress_bar("") as bar:
        # Progress counts kills, undisturbed runs, damaged files, and the commands that resume from them.
        soak = Soak(folder, seed=seed, epochs=epochs, progress=bar, task=bar.add_task("kills", total=kills + 4 + commands))
        by_kind = kill_all_kinds(soak, shares)
        soak.stopping.clear()
        spoilt = damage_checkpoints(soak, commands) if by_kind["training"]["runs_to_their_end"] else {}
    return {
        **{key: sum(counts[key] for counts in by_kind.values()) for key in COUNTED},
        "lost": len(soak.lost), "left": len(soak.left), **by_kind,
        "spoilt": spoilt, "what": [*soak.lost, *soak.left], "seed": seed, "seconds": time.monotonic() - started,
    }  # fmt: skip


def results(*, kills=50, seed=0, workdir="", epochs=40, recordings=24, commands=3) -> list[dict]:
    """Returns one entry."""
    if workdir:
        return [measure(pathlib.Path(workdir).expanduser().absolute(), kills, seed, epochs, recordings, commands)]
    with tempfile.TemporaryDirectory() as name:
        return [measure(pathlib.Path(name), kills, seed, epochs, recordings, commands)]


def main() -> None:
    """Runs the benchmark; the exit status is 1 if anything was lost or left."""
    entries: list[dict] = []

    @functools.wraps(results)
    def benchmark(**options):
        entries.extend(results(**options))
        return entries

    try:
        timing.run(benchmark, "orbax-checkpoint", "tensorflow-datasets")
    except SystemExit as end:
        sys.exit(end.code or int(any(entry["lost"] or entry["left"] for entry in entries)))


if __name__ == "__main__":
    main()
