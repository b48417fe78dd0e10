"""The three kinds of command that the soak test kills: training, an experiment, and preparing a data set."""

import dataclasses
import pathlib
import random
from collections.abc import Callable, Iterator

from benchmarks.soak import outcomes, workdirs
from benchmarks.soak.inputs import DATASET
from benchmarks.soak.phases import EXPERIMENT, PREPARATION, TRAINING, Phases
from mfl_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Kind:
    """A command to kill.

    Attributes:
      name: name of the kind.
      module: module of the command.
      flags: flags of the command.
      workdir_flag: flag that sets the work directory.
      phases: phases of the command; the first that holds counts.
      default_phase: name of the phase if none of `phases` holds.
      aims: phases in which kills are aimed; every kind is also killed during its start and at any time.
      late_aims: those of `aims` that come at the end of a run.
      read_progress: returns a value that changes once the start is over.
      read_saved: returns what a kill must not cost.
      count_repeated: called with the work directory, the result of `read_saved` and the output of the command; returns how much
        of what was saved is computed again, None if unknown.
      lock: the file that a running command locks.
      refuses: whether a second command is refused, rather than made to wait.
      read_outcome: returns what must equal the outcome of an undisturbed run.
      lines: number of lines of metrics.jsonl at the end, over all members; 0 if the command writes none.
    """

    name: str
    module: str
    flags: tuple[str, ...]
    workdir_flag: str
    phases: Phases
    default_phase: str
    aims: tuple[str, ...]
    late_aims: tuple[str, ...]
    read_progress: Callable[[pathlib.Path], object]
    read_saved: Callable[[pathlib.Path], set]
    count_repeated: Callable[[pathlib.Path, set, str], int | None]
    lock: str
    refuses: bool
    read_outcome: Callable[[pathlib.Path], dict]
    lines: int = 0


def _read_metrics_times(home):
    return {(str(file), file.stat().st_mtime_ns) for file in workdirs.list_metrics_files(home)}


def _list_incomplete_folders(home):
    return sorted((home / DATASET).glob("incomplete*"))


def list_kinds(folder: pathlib.Path, epochs: int) -> list[Kind]:
    """The three kinds; the folder holds the files of `inputs.write_inputs`."""
    config, length = f"--config={folder / 'config.py'}", f"--config.epochs={epochs}"
    run = {
        "workdir_flag": "--workdir", "default_phase": "step", "read_progress": _read_metrics_times,
        "read_saved": workdirs.read_saved_metrics, "count_repeated": workdirs.count_repeated_epochs, "lock": "owner.json",
        "refuses": True,
    }  # fmt: skip
    training = Kind(
        name="training", module="mfl_jax.main", flags=(f"{config}:training", length), read_outcome=outcomes.read_run,
        lines=epochs, phases=TRAINING, aims=("checkpoint", "sums", "metrics", "checkpoint", "deletion", "finish"),
        late_aims=("finish",), **run,
    )  # fmt: skip
    experiment = Kind(
        name="experiment", module="mfl_jax.experiment", flags=(f"{config}:experiment", length),
        read_outcome=outcomes.read_experiment, lines=4 * epochs, phases=EXPERIMENT,
        aims=("checkpoint", "dealing", "sums", "clearing", "metrics", "finish"), late_aims=("dealing", "clearing", "finish"),
        **run,
    )  # fmt: skip
    preparation = Kind(
        name="preparation", module="mfl_jax.main", workdir_flag="--config.data_dir",
        flags=(f"{config}:preparation", f"--config.manual_dir={folder / 'recordings'}", "--mode=prepare"),
        phases=PREPARATION, default_phase="spectrograms", aims=("shards", "sealing", "finish"), late_aims=(),
        read_progress=_list_incomplete_folders, read_saved=workdirs.list_saved_spectrograms,
        count_repeated=workdirs.count_repeated_spectrograms, lock=f"{DATASET}/.lock", refuses=False,
        read_outcome=outcomes.read_preparation,
    )  # fmt: skip
    return [training, experiment, preparation]


def share_kills(kills: int) -> dict[str, int]:
    """The number of kills of each kind: half of them for training, and at least one each.

    Raises:
      InputError: `kills` is below three.
    """
    if kills < 3:
        raise InputError(f"flag --kills={kills}: must be at least 3, one for each kind of run")
    preparation, experiment = max(1, kills // 5), max(1, 3 * kills // 10)
    return {"training": kills - preparation - experiment, "experiment": experiment, "preparation": preparation}


def draw_aims(kind: Kind, rng: random.Random) -> Iterator[str]:
    """Yields what to aim at, forever; each round contains every aim once, in random order."""
    aims = (*kind.aims, "start", "any", "any")
    while True:
        yield from rng.sample(aims, len(aims))
