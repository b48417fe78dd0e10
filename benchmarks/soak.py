"""Kills runs with SIGKILL at random moments, again and again, and holds what they end with against runs that nobody disturbed.

python -m benchmarks.soak [--kills=50] [--seed=0] [--workdir=DIR] [--epochs=40] [--recordings=24] [--commands=3]

Three commands are killed: training, preparing a data set, and an experiment of two systems with two seeds. Each runs until it is
killed, is started again, and so on; one that gets to its end is compared and begun anew until its share of the kills is used up.
A process is stopped (SIGSTOP) before it is killed: what lies in its work directory while it stands still says which phase the
kill falls into, and only processes that were alive then count.

Phases of training and of an experiment, the first that holds:
  start       no epoch was written since this start
  dealing     of an experiment: the checkpoint of a member lies under a temporary name
  clearing    of an experiment: the checkpoints of a group whose members have their results are removed
  sums        the sums of the files of a checkpoint are being written
  metrics     a file of the run, such as metrics.jsonl, lies under a temporary name
  deletion    an old checkpoint is half deleted
  checkpoint  a checkpoint lies under a temporary name
  finish      scores are there, or are all that is missing
  step        none of these
Phases of preparing: start, spectrograms, shards; sealing, when all that is missing is the name of its folder; finish, when it is
whole.

`lost` counts what a kill cost that it must not: a number, an array or an example that is not that of the undisturbed run, an
epoch or a spectrogram that was saved and made again, a lock that is not free, a second run that is not refused. `left` counts
files that the undisturbed run does not leave; `what` names all of them. `resumed` are the starts that were seen to go on from
what an earlier one had saved, `while_saving` the kills while a checkpoint or its sums were written or an old one was deleted.
Then each file of the newest checkpoint is spoilt, by a bit and by its end: it must be passed over for the one before. The exit
status is 1 if anything was lost or left.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import fcntl
import functools
import hashlib
import io
import itertools
import json
import logging
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping

import flax.traverse_util
import numpy as np
import rich.console
import rich.progress
import soundfile

from benchmarks import timing
from mfl_jax.data import label_list, prepare, prepared_dataset
from mfl_jax.errors import InputError
from mfl_jax.runtime.progress import progress_bar
from mfl_jax.training.checkpoints import Checkpoints

ROOT = pathlib.Path(__file__).absolute().parent.parent
DATASET = "annotated_audio/soak"
RATE = 8000
# 1 s clips of 50 frames at 8 kHz: the whole way through the code, at a fraction of the work.
AUDIO = {
    "clip_s": 1.0, "sample_rate_hz": RATE, "window_samples": 320, "hop_samples": 160, "fft_samples": 512, "mel_bins": 32,
    "low_hz": 0.0, "high_hz": 4000.0,
}  # fmt: skip
CONFIG = '''"""What benchmarks/soak.py runs."""

from configs import conventional_mtl, default, proposed


def get_config(kind):
    """`preparation`, `training` or `experiment`."""
    if kind == "preparation":
        config = proposed.get_config()
        config.dataset = {dataset!r}
        return config
    if kind == "experiment":
        config = default.experiment("soak", [conventional_mtl, proposed])
        config.update({{"seeds": 2, "members_at_once": 2}})
    else:
        config = proposed.get_config()
    config.update({fields!r})
    return config
'''
LONGEST_S = 900
"""No run takes as long as that."""
COUNTED = ("kills", "while_saving", "resumed", "runs_to_their_end", "second_runs_refused")
FAILURES = 5
"""A kind of which so many runs failed is given up."""
TEMPORARY = ".orbax-checkpoint-tmp"


def write_recordings(root: pathlib.Path, development: int, evaluation: int, seconds: float) -> None:
    """Writes noise (scene `calm`) and louder noise (scene `busy`) with tones of 500 Hz (`low`) and 2 kHz (`high`)."""
    rng = np.random.default_rng(0)
    (root / "meta").mkdir(parents=True)
    t = np.arange(int(seconds * RATE)) / RATE
    for split, count in (("development", development), ("evaluation", evaluation)):
        rows = ["\t".join(label_list.COLUMNS) + "\n"]
        for number in range(count):
            wave = (0.01, 0.05)[number % 2] * rng.standard_normal(len(t))
            for label, pitch in (("low", 500.0), ("high", 2000.0)):
                onset, offset = np.sort(rng.uniform(0, seconds, 2))
                wave += 0.2 * np.sin(2 * np.pi * pitch * t) * ((t >= onset) & (t < offset))
                rows.append(f"{split}{number}.wav\t{('calm', 'busy')[number % 2]}\t{onset:.6f}\t{offset:.6f}\t{label}\n")
            soundfile.write(root / f"{split}{number}.wav", wave.clip(-1, 1), RATE)
        (root / "meta" / f"meta_{split}.txt").write_text("".join(rows))


def _names(folder: pathlib.Path) -> list[str]:
    with contextlib.suppress(OSError):
        return os.listdir(folder)
    return []


def checkpoint_folders(home: pathlib.Path) -> list[pathlib.Path]:
    """Where a run, or an experiment, keeps its checkpoints."""
    parts = (home / part for part in ("groups", "members"))
    return [home / "checkpoints", *(part / name / "checkpoints" for part in parts for name in _names(part))]


def steps_in(folder: pathlib.Path) -> list[int]:
    """The steps of the checkpoints in a folder, the newest last."""
    return sorted(int(name) for name in _names(folder) if name.isdigit())


def members_of(folder: pathlib.Path) -> list[str]:
    """The members whose checkpoints lie in a folder of a group; none for that of a run."""
    with contextlib.suppress(OSError, IndexError):
        return json.loads((folder / str(steps_in(folder)[-1]) / "about" / "metadata").read_text()).get("members", [])
    return []


def _summing(home):
    """Once they are there under their name, those of checkpoints that are gone are removed."""
    for folder in checkpoint_folders(home):
        sums, steps = _names(folder.with_name("checkpoints.sums")), steps_in(folder)
        gone = {name for name in sums if name.endswith(".json")} - {f"{step}.json" for step in steps}
        if any(".part" in name for name in sums) or (gone and f"{steps[-1] if steps else ''}.json" in sums):
            return True
    return False


def _saving(home):
    return any(TEMPORARY in name for folder in checkpoint_folders(home) for name in _names(folder))


def _dealing(home):
    members = home / "members"
    return any(TEMPORARY in name for member in _names(members) for name in _names(members / member / "checkpoints"))


def _clearing(home):
    finished = {name for name in _names(home / "members") if "results.json" in _names(home / "members" / name)}
    groups = [home / "groups" / name / "checkpoints" for name in _names(home / "groups")] if finished else []
    return any((members := members_of(folder)) and finished.issuperset(members) for folder in groups)


def _deleting(home):
    whole = "_CHECKPOINT_METADATA"
    folders = checkpoint_folders(home)
    return any(name.isdigit() and whole not in _names(folder / name) for folder in folders for name in _names(folder))


def _recording(home):
    folders = [folder.parent for folder in checkpoint_folders(home)]
    return any(".part" in name for folder in folders for name in _names(folder))


def _finishing(home):
    """Of a run, whether the sums of its last checkpoint are there, before it is scored; of an experiment, any results."""
    if members := _names(home / "members"):
        return any("results.json" in _names(home / "members" / name) for name in members)
    sums = [f"{step}.json" for step in steps_in(home / "checkpoints")[-1:]]
    if not sums or sums[0] not in _names(home / "checkpoints.sums"):
        return False
    return len(written(home)) >= json.loads((home / "config.json").read_text())["epochs"] and not _saving(home)


# In this order: of an experiment, the first two are special cases of others.
TRAINING_PHASES = {
    "sums": _summing, "metrics": _recording, "deletion": _deleting, "checkpoint": _saving, "finish": _finishing,
}  # fmt: skip
EXPERIMENT_PHASES = {"dealing": _dealing, "clearing": _clearing, **TRAINING_PHASES}


def _sharding(home):
    return any(".array_record" in name for folder in (home / DATASET).glob("incomplete*") for name in _names(folder))


def _sealing(home):
    """The last file of all, before the folder gets its name."""
    return any((folder / "dataset_info.json").exists() for folder in (home / DATASET).glob("incomplete*"))


def _prepared(home):
    return any(name[0].isdigit() for name in _names(home / DATASET))


PREPARATION_PHASES = {"sealing": _sealing, "shards": _sharding, "finish": _prepared}


def phase_of(home: pathlib.Path, phases: Mapping[str, Callable], otherwise: str) -> str:
    """The first of some phases that holds for a work directory, or `otherwise`."""
    return next((name for name, holds in phases.items() if holds(home)), otherwise)


def written(home: pathlib.Path) -> set[tuple[str, str]]:
    """The lines of metrics.jsonl of a run or of all members of an experiment, each with its folder."""
    files = [file for file in (home / "metrics.jsonl", *home.glob("members/*/metrics.jsonl")) if file.exists()]
    return {(str(file.parent.relative_to(home)), line) for file in files for line in file.read_text().splitlines()}


def saved(home: pathlib.Path) -> set[tuple[str, str]]:
    """Those of `written` whose epoch is in a checkpoint: a run that goes on keeps them, down to their seconds."""
    reached: dict[str, int] = collections.defaultdict(int)
    for folder in checkpoint_folders(home):
        of = [f"members/{member}" for member in members_of(folder)] or [str(folder.parent.relative_to(home))]
        for name in of:
            reached[name] = max(reached[name], *steps_in(folder)[-1:], 0)
    return {(name, line) for name, line in written(home) if json.loads(line)["step"] <= reached[name]}


def made_again(home: pathlib.Path, kept: set, said: str) -> int:
    """How many of the lines that were `saved` once are not there any more."""
    del said
    return len(kept - written(home))


def saved_spectrograms(home: pathlib.Path) -> set[str]:
    """The spectrograms that are vouched for."""
    return {str(file) for file in home.rglob("*.f32") if file.with_suffix(".json").exists()}


def computed_again(home: pathlib.Path, kept: set, said: str) -> int | None:
    """How many spectrograms that were there are computed again, by what a preparation says; None where it has not said it."""
    found = re.search(r"(\d+) of \d+ spectrograms are there", said)
    return max(0, len(kept) - int(found[1])) if found else None


def listing(home: pathlib.Path) -> set[str]:
    """What lies in a work directory, without the insides of checkpoints and of TensorBoard's folders, whose names vary."""
    found = set()
    for folder, folders, files in os.walk(home):
        here = pathlib.Path(folder).relative_to(home)
        found |= {str(here / name) for name in (*folders, *files)}
        folders[:] = [name for name in folders if not name.isdigit() and name != "tensorboard"]
    return found


def _digest(array) -> str:
    array = np.ascontiguousarray(array)
    return f"{array.dtype} {array.shape} {hashlib.sha256(array.tobytes()).hexdigest()}"


def _digests(plain) -> dict[str, str]:
    return {name: _digest(leaf) for name, leaf in flax.traverse_util.flatten_dict(plain, sep="/").items()}


def arrays(folder: pathlib.Path) -> dict[str, str]:
    """Sums of the arrays of the newest whole checkpoint of a folder."""
    with Checkpoints(folder, keep=2) as checkpoints:
        return _digests(checkpoints.newest()[0])


def end_of_run(home: pathlib.Path) -> dict:
    """All that two runs of the same command have in common: scores, records but for their seconds, arrays."""
    timed = ("seconds", "clips_per_second")
    lines = (home / "metrics.jsonl").read_text().splitlines()
    made = [{key: value for key, value in json.loads(line).items() if key not in timed} for line in lines]
    results = json.loads((home / "results.json").read_text())
    return {"results": results, "metrics": dict(enumerate(made, 1)), "arrays": arrays(home / "checkpoints")}


def end_of_experiment(home: pathlib.Path) -> dict:
    """As `end_of_run`, of all members, and what the experiment says of them."""
    texts = {file.name: file.read_text() for file in (home / "data.json", *home.glob("tables/*"))}
    members = {folder.name: end_of_run(folder) for folder in sorted(home.glob("members/*"))}
    return {"results": json.loads((home / "results.json").read_text()), "texts": texts, "members": members}


def end_of_preparation(home: pathlib.Path) -> dict:
    """All examples of a prepared data set."""
    dataset = prepared_dataset.open_dataset(DATASET, home)
    ends: dict = {"fingerprint": dataset.fingerprint}
    for split in dataset.clips:
        clips = dataset.read(split)
        places = {"fold": clips.fold, "recording": clips.recording, "clip_start_s": clips.clip_start_s}
        ends[split] = {name: _digest(value) for name, value in (places | clips.take(np.arange(len(clips)))).items()}
    return ends


def differences(one, other, where: str = "") -> list[str]:
    """The places in which two nested dictionaries differ."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        keys = dict.fromkeys((*one, *other))
        missing = object()
        pairs = ((key, one.get(key, missing), other.get(key, missing)) for key in keys)
        return [place for key, *pair in pairs for place in differences(*pair, f"{where}/{key}")]
    # NaN is the same as NaN: compared as text.
    return [] if repr(one) == repr(other) else [where]


@dataclasses.dataclass(frozen=True)
class Kind:
    """A command that is killed.

    Attributes:
      name: of the kind. module, flags: of the command. place: the flag that says where it writes.
      phases, otherwise: as for `phase_of`. aims: of the phases, those that moments are chosen for; `start` and any time are
        chosen besides. late: those of them that come at the end.
      begun: what changes in the work directory once the start is over.
      saved: what a kill must not cost; `again(home, what was saved, what the command says)`: how much of it is made again.
      lock: the file that a run at work has locked. refuses: whether a second run is refused, rather than made to wait.
      end: what must be equal. lines: of metrics.jsonl at the end, over all members.
    """

    name: str
    module: str
    flags: tuple[str, ...]
    place: str
    phases: Mapping[str, Callable]
    otherwise: str
    aims: tuple[str, ...]
    late: tuple[str, ...]
    begun: Callable[[pathlib.Path], object]
    saved: Callable[[pathlib.Path], set]
    again: Callable[[pathlib.Path, set, str], int | None]
    lock: str
    refuses: bool
    end: Callable[[pathlib.Path], dict]
    lines: int = 0


def _last_written(home):
    files = [file for file in (home / "metrics.jsonl", *home.glob("members/*/metrics.jsonl")) if file.exists()]
    return {(str(file), file.stat().st_mtime_ns) for file in files}


def _begun_folders(home):
    return sorted((home / DATASET).glob("incomplete*"))


def kinds_in(folder: pathlib.Path, epochs: int) -> list[Kind]:
    """The three kinds; the folder holds `config.py`, and `recordings` to prepare."""
    config, length = f"--config={folder / 'config.py'}", f"--config.epochs={epochs}"
    run = {
        "place": "--workdir", "otherwise": "step", "begun": _last_written, "saved": saved, "again": made_again,
        "lock": "owner.json", "refuses": True,
    }  # fmt: skip
    training = Kind(
        name="training", module="mfl_jax.main", flags=(f"{config}:training", length), end=end_of_run, lines=epochs,
        phases=TRAINING_PHASES, aims=("checkpoint", "sums", "metrics", "checkpoint", "deletion", "finish"), late=("finish",),
        **run,
    )  # fmt: skip
    experiment = Kind(
        name="experiment", module="mfl_jax.experiment", flags=(f"{config}:experiment", length), end=end_of_experiment,
        lines=4 * epochs, phases=EXPERIMENT_PHASES, aims=("checkpoint", "dealing", "sums", "clearing", "metrics", "finish"),
        late=("dealing", "clearing", "finish"), **run,
    )  # fmt: skip
    preparation = Kind(
        name="preparation", module="mfl_jax.main", place="--config.data_dir",
        flags=(f"{config}:preparation", f"--config.manual_dir={folder / 'recordings'}", "--mode=prepare"),
        phases=PREPARATION_PHASES, otherwise="spectrograms", aims=("shards", "sealing", "finish"), late=(),
        begun=_begun_folders, saved=saved_spectrograms, again=computed_again, lock=f"{DATASET}/.lock", refuses=False,
        end=end_of_preparation,
    )  # fmt: skip
    return [training, experiment, preparation]


def quotas(kills: int) -> dict[str, int]:
    """How many kills each kind gets: half of them training, and at least one each.

    Raises:
      InputError: there are fewer than three.
    """
    if kills < 3:
        raise InputError(f"flag --kills={kills}: at least 3, one for each kind of run")
    preparation, experiment = max(1, kills // 5), max(1, 3 * kills // 10)
    return {"training": kills - preparation - experiment, "experiment": experiment, "preparation": preparation}


def is_free(lock: pathlib.Path, patience_s: float = 1.0) -> bool:
    """Whether no process holds a lock, or not for longer than a child that is about to become another program."""
    deadline = time.monotonic() + patience_s
    while lock.exists():
        with open(lock) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    return False
        time.sleep(0.01)
    return True


def strike(process: subprocess.Popen, look: Callable[[], str]) -> tuple[int | None, str]:
    """Stops a process, looks, and kills it as it stands.

    Args:
      process: a child of this one. look: called while it stands still.

    Returns:
      None and what was seen; or the status of a process that had ended before, and nothing.
    """
    process.send_signal(signal.SIGSTOP)
    if process.returncode is None:
        happened = os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        if happened.si_code == os.CLD_STOPPED:
            seen = look()
            process.kill()
            if process.wait() == -signal.SIGKILL:
                return None, seen
    return process.wait(), ""


def aims_of(kind: Kind, rng: random.Random) -> Iterator[str]:
    """What to aim at, each once in every round, in any order."""
    of = (*kind.aims, "start", "any", "any")
    while True:
        yield from rng.sample(of, len(of))


@dataclasses.dataclass(frozen=True)
class Undisturbed:
    """What a run comes to that nobody disturbs.

    Attributes:
      end: as `Kind.end`. listing: as `listing`. start_s, work_s: how long it took to begin, and from there to the end.
    """

    end: dict
    listing: set[str]
    start_s: float
    work_s: float


class Soak:
    """What is killed, and what came of it."""

    def __init__(self, folder: pathlib.Path, *, seed: int, epochs: int, progress: rich.progress.Progress, task):
        """`folder` holds all that is made; `task` of `progress` advances with each kill and each comparison."""
        self.folder, self.seed = folder, seed
        self.kinds = {kind.name: kind for kind in kinds_in(folder, epochs)}
        self.lost: list[str] = []
        self.left: list[str] = []
        self.stopping = threading.Event()
        self._progress, self._task = progress, task
        cache = {"JAX_COMPILATION_CACHE_DIR": str(folder / "cache"), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
        self._environment = {**os.environ, **cache}

    def tell(self, what: str, advance: int = 1) -> None:
        """A line for who waits."""
        self._progress.console.print(what, highlight=False, soft_wrap=True, markup=False)
        self._progress.advance(self._task, advance)

    @contextlib.contextmanager
    def running(self, kind: Kind, home: pathlib.Path) -> Iterator[tuple[subprocess.Popen, pathlib.Path]]:
        """Starts a command, and yields it with the file of all that it says; it does not outlive the context."""
        with tempfile.NamedTemporaryFile("w", dir=self.folder, prefix="said.", suffix=".txt") as said:
            command = [sys.executable, "-m", kind.module, *kind.flags, f"{kind.place}={home}"]
            process = subprocess.Popen(
                command, cwd=ROOT, env=self._environment, stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT
            )
            try:
                yield process, pathlib.Path(said.name)
            finally:
                if process.poll() is None:
                    process.kill()
                    process.wait()

    def wait(self, process: subprocess.Popen, until: Callable[[], bool] = lambda: False, pause_s: float = 0.01) -> bool:
        """Waits until something holds, or the process ends; returns whether it still runs."""
        started = time.monotonic()
        while process.poll() is None:
            if until():
                return True
            if self.stopping.is_set() or time.monotonic() - started > LONGEST_S:
                raise RuntimeError("given up" if self.stopping.is_set() else f"a run took longer than {LONGEST_S} s")
            time.sleep(pause_s)
        return False

    def undisturbed(self, kind: Kind) -> Undisturbed:
        """Runs a command to its end."""
        home, started = self.folder / kind.name / "undisturbed", time.monotonic()
        before = kind.begun(home)
        with self.running(kind, home) as (process, said):
            self.wait(process, lambda: kind.begun(home) != before)
            begun = time.monotonic()
            self.wait(process)
            if process.returncode:
                raise RuntimeError(f"the undisturbed {kind.name} ended with status {process.returncode}:\n{said.read_text()}")
        start_s, work_s = begun - started, time.monotonic() - begun
        self.tell(f"{kind.name}: undisturbed, {start_s:.1f} s to its begin, {work_s:.1f} s at work")
        return Undisturbed(kind.end(home), listing(home), start_s, work_s)

    def kill_again_and_again(self, name: str, quota: int) -> dict:
        """Kills a kind as often as its quota says; returns what is to be counted."""
        kind, rng = self.kinds[name], random.Random(f"{self.seed} {name}")
        model, counts, phases = self.undisturbed(kind), collections.Counter(), collections.Counter()
        aims, failed = aims_of(kind, rng), 0
        for number in itertools.count():
            home, kept, earlier = self.folder / name / f"run{number}", set(), counts["kills"]
            status = None
            while status is None:
                before = kind.begun(home)
                with self.running(kind, home) as (process, said):
                    if counts["kills"] < quota:
                        self._await(kind, home, process, rng, next(aims), before, model)
                        look = functools.partial(self._look, kind, home, process, before, counts)
                        status, phase = strike(process, look)
                    else:
                        self.wait(process)
                        status = process.returncode
                    text = said.read_text()
                again = kind.again(home, kept, text)
                if again:
                    self._lose(kind, home, f"{again} of what was saved was made again")
                counts["resumed"] += bool(kept) and again == 0 and kind.begun(home) != before
                if status is None:
                    counts["kills"] += 1
                    phases[phase] += 1
                    self.tell(f"{name}: killed in {phase}")
                    if not is_free(home / kind.lock):
                        self._lose(kind, home, "the lock is not free after a kill")
                    kept = kind.saved(home)
            if status:
                self._lose(kind, home, f"ended with status {status}: {last_line(text)}")
                failed += 1
            else:
                self.compare(kind, home, model)
                counts["runs_to_their_end"] += counts["kills"] > earlier
            if counts["kills"] >= quota or failed == FAILURES:
                return {**{key: counts[key] for key in COUNTED}, "phases": dict(phases)}

    def _look(self, kind, home, process, before, counts) -> str:
        """The phase of a process that stands still; looks once whether a second one is refused beside it."""
        phase = "start" if kind.begun(home) == before else phase_of(home, kind.phases, kind.otherwise)
        # What an earlier kill left is cleared by the end of the start.
        counts["while_saving"] += phase != "start" and any(holds(home) for holds in (_saving, _summing, _deleting))
        if kind.refuses and not counts["second_runs_refused"] and not is_free(home / kind.lock, patience_s=0):
            counts["second_runs_refused"] += self._is_refused(kind, home, process.pid)
        return phase

    def _await(self, kind, home, process, rng, aim, before, model) -> None:
        """Waits for a moment to strike at."""
        if aim == "start":
            moment = time.monotonic() + rng.uniform(0, model.start_s)
            self.wait(process, lambda: time.monotonic() > moment)
            return
        self.wait(process, lambda: kind.begun(home) != before, 0.001)
        wait_s = rng.uniform(0, model.work_s / 2)
        if kind.lines:
            wait_s = rng.uniform(0, 2 * model.work_s / kind.lines)
            # An epoch that is not far, so that a run is killed often on its way.
            if aim not in kind.late:
                enough = min(len(written(home)) + rng.randrange(1 + kind.lines // 5), kind.lines - 1)
                self.wait(process, lambda: len(written(home)) >= enough, 0.002)
        if aim in kind.aims:
            self.wait(process, lambda: kind.phases[aim](home), 0)
            wait_s = rng.choice((0, rng.uniform(0, 0.05), rng.uniform(0, 0.5) if aim == "finish" else 0))
        moment = time.monotonic() + wait_s
        self.wait(process, lambda: time.monotonic() > moment, 0)

    def _is_refused(self, kind, home, pid) -> bool:
        """Whether a second run is refused, and touches nothing."""

        def touched():
            return {name: (home / name).stat().st_mtime_ns for name in listing(home)}

        before = touched()
        with self.running(kind, home) as (process, said):
            self.wait(process)
            text = said.read_text()
        if process.returncode != 2 or f"process {pid} on " not in text or touched() != before:
            self._lose(kind, home, f"a second run ended with status {process.returncode}: {last_line(text)}")
            return False
        return True

    def _lose(self, kind, home, what) -> None:
        self.lost.append(f"{home.relative_to(self.folder)}: {what}")
        self.tell(f"LOST: {self.lost[-1]}", 0)

    def compare(self, kind: Kind, home: pathlib.Path, model: Undisturbed) -> bool:
        """Holds the end of a run against that of the undisturbed one, and what lies there; returns whether they are equal."""
        now, different = listing(home), differences(kind.end(home), model.end)
        missing, extra = sorted(model.listing - now), sorted(now - model.listing)
        if different:
            self._lose(kind, home, f"other values at {', '.join(different[:5])}")
        if missing:
            self._lose(kind, home, f"not there: {', '.join(missing[:5])}")
        extra = [name for name in extra if str(pathlib.Path(name).parent) not in extra]
        self.left += [f"{home.relative_to(self.folder)}/{name}" for name in extra]
        what = f"{'other than' if different or missing else 'equal to'} the undisturbed one"
        self.tell(f"{home.relative_to(self.folder)}: at its end, {what}{f'; LEFT: {extra}' if extra else ''}", 0)
        return not (different or missing or extra)

    def spoil_checkpoints(self, commands: int) -> dict:
        """Spoils each file of the newest checkpoint of a run that was killed, and looks what is made of it.

        Args:
          commands: how many of the spoilt checkpoints the whole command goes on from.
        """
        kind, rng = self.kinds["training"], random.Random(f"{self.seed} spoil")
        home = max(self.folder.glob("training/run*"), key=lambda run: int(run.name.removeprefix("run")))
        undisturbed = self.folder / "training" / "undisturbed"
        model = Undisturbed(kind.end(undisturbed), listing(undisturbed), 0, 0)
        before, newest = sorted(int(name) for name in _names(home / "checkpoints"))
        with Checkpoints(home / "checkpoints", keep=2) as checkpoints:
            one_before = _digests(checkpoints.newest(of=[before])[0])
        files = sorted(file.relative_to(home) for file in (home / "checkpoints" / str(newest)).rglob("*") if file.is_file())
        cases = [(file, spoil) for file in files for spoil in (flip_a_bit, truncate) if (home / file).stat().st_size]
        counts = collections.Counter(files=len(files))
        for name in ("absl", "asyncio"):  # each read that failed would be told of once more
            logging.getLogger(name).disabled = True
        for file, spoil in cases:
            with tempfile.TemporaryDirectory(dir=self.folder) as name:
                copy = pathlib.Path(name)
                for part in ("checkpoints", "checkpoints.sums"):
                    shutil.copytree(home / part, copy / part)
                spoil(copy / file, rng)
                counts[spoil.__name__] += 1
                if fell_back(copy / "checkpoints", newest, one_before):
                    counts["fell_back"] += 1
                else:
                    self._lose(kind, home, f"{spoil.__name__} of {file}: the checkpoint was not passed over")
        self.tell(f"{len(cases)} spoilt files, {counts['fell_back']} named and passed over")
        for number, (file, spoil) in enumerate(rng.sample(cases, min(commands, len(cases)))):
            copy = self.folder / "training" / f"spoilt{number}"
            shutil.copytree(home, copy)
            (copy / "results.json").unlink()
            spoil(copy / file, rng)
            with self.running(kind, copy) as (process, said):
                self.wait(process)
                text = said.read_text()
            counts["commands"] += 1
            self.tell(f"{spoil.__name__} of {file}: ended with status {process.returncode}")
            named = f"checkpoints/{newest}: damaged checkpoint" in text and f"resumes after step {before} of" in text
            if process.returncode or not named:
                self._lose(kind, copy, f"{spoil.__name__} of {file}: status {process.returncode}, {last_line(text)}")
            elif self.compare(kind, copy, model):
                counts["commands_with_the_same_end"] += 1
        return dict(counts)


def last_line(text: str) -> str:
    """What a command said last."""
    return text.strip().rpartition("\n")[2][-300:]


def flip_a_bit(file: pathlib.Path, rng: random.Random) -> None:
    """Flips one bit anywhere in a file that is not empty."""
    content = bytearray(file.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    file.write_bytes(content)


def truncate(file: pathlib.Path, rng: random.Random) -> None:
    """Cuts off the end of a file that is not empty, or all of it."""
    os.truncate(file, rng.randrange(file.stat().st_size))


def fell_back(folder: pathlib.Path, newest: int, one_before: Mapping[str, str]) -> bool:
    """Whether the newest checkpoint of a folder is named as not whole, and the one before has these arrays."""
    with contextlib.redirect_stderr(io.StringIO()) as said, contextlib.suppress(InputError):
        found = arrays(folder)
        return found == one_before and f"{folder}/{newest}: damaged checkpoint" in said.getvalue()
    return False


def measure(folder: pathlib.Path, kills: int, seed: int, epochs: int, recordings: int, commands: int) -> dict:
    """Does all of it in a folder that is empty or is not there yet.

    Raises:
      InputError: the folder is not empty, or a flag makes no sense.
    """
    started, quota = time.monotonic(), quotas(kills)
    if epochs < 3 or recordings < 2:
        raise InputError("flags --epochs and --recordings: at least 3 and 2")
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise InputError(f"flag --workdir={folder}: is not empty; name another")
    write_recordings(folder / "recordings", recordings - 1, 1, 60.0)
    write_recordings(folder / "recordings_small", 8, 4, 2.6)
    with contextlib.redirect_stderr(io.StringIO()):
        prepare.prepare(DATASET, data_dir=folder / "data", manual_dir=folder / "recordings_small", **AUDIO)
    fields = {
        "dataset": DATASET, "data_dir": str(folder / "data"), "channels": 4, "hidden": 4, "batch_size": 5, "learning_rate": 1e-2,
        "devices": 1, "accelerator": "cpu", "audio": AUDIO,
    }  # fmt: skip
    (folder / "config.py").write_text(CONFIG.format(dataset=DATASET, fields=fields))
    with progress_bar("") as bar:
        # Beside the kills: the undisturbed runs, the spoilt files, and the commands that go on from them.
        soak = Soak(folder, seed=seed, epochs=epochs, progress=bar, task=bar.add_task("kills", total=kills + 4 + commands))
        with concurrent.futures.ThreadPoolExecutor(min(3, len(os.sched_getaffinity(0)))) as pool:
            try:
                calls = {name: pool.submit(soak.kill_again_and_again, name, count) for name, count in quota.items()}
                done, _ = concurrent.futures.wait(calls.values(), return_when=concurrent.futures.FIRST_EXCEPTION)
                for call in done:
                    call.result()  # raises what went wrong first
                by_kind = {name: call.result() for name, call in calls.items()}
            finally:
                soak.stopping.set()
        soak.stopping.clear()
        spoilt = soak.spoil_checkpoints(commands) if by_kind["training"]["runs_to_their_end"] else {}
    return {
        **{key: sum(counts[key] for counts in by_kind.values()) for key in COUNTED},
        "lost": len(soak.lost), "left": len(soak.left), **by_kind,
        "spoilt": spoilt, "what": [*soak.lost, *soak.left], "seed": seed, "seconds": time.monotonic() - started,
    }  # fmt: skip


def results(*, kills=50, seed=0, workdir="", epochs=40, recordings=24, commands=3) -> list[dict]:
    """The one entry."""
    if workdir:
        return [measure(pathlib.Path(workdir).expanduser().absolute(), kills, seed, epochs, recordings, commands)]
    with tempfile.TemporaryDirectory() as name:
        return [measure(pathlib.Path(name), kills, seed, epochs, recordings, commands)]


def main() -> None:
    """Runs the benchmark; the exit status is 1 if anything was lost or left."""
    made: list[dict] = []

    @functools.wraps(results)
    def kept(**options):
        made.extend(results(**options))
        return made

    try:
        timing.run(kept, "orbax-checkpoint", "tensorflow-datasets")
    except SystemExit as ended:
        sys.exit(ended.code or int(any(result["lost"] or result["left"] for result in made)))


if __name__ == "__main__":
    main()
