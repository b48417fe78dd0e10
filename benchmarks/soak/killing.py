"""Kills commands again and again, and compares their outcomes with those of undisturbed runs."""

import collections
import contextlib
import dataclasses
import functools
import itertools
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator

import rich.progress

from benchmarks.soak.kinds import Kind, draw_aims, list_kinds
from benchmarks.soak.outcomes import find_differences
from benchmarks.soak.phases import is_deleting_checkpoint, is_writing_checkpoint, is_writing_checksums, name_phase
from benchmarks.soak.processes import is_free, read_last_line, stop_and_kill
from benchmarks.soak.workdirs import list_files, read_metrics

ROOT = pathlib.Path(__file__).absolute().parent.parent.parent
TIME_LIMIT_S = 900
"""A run that takes longer than this hangs."""
COUNTED = ("kills", "while_saving", "resumed", "runs_to_their_end", "second_runs_refused")
MAX_FAILURES = 5
"""Stop killing a kind after this many failed runs."""


@dataclasses.dataclass(frozen=True)
class Undisturbed:
    """An undisturbed run.

    Attributes:
      outcome: result of `Kind.read_outcome`.
      files: result of `list_files`.
      start_s: time from the start of the process to the first progress.
      work_s: time from the first progress to the end.
    """

    outcome: dict
    files: set[str]
    start_s: float
    work_s: float


class Soak:
    """Runs and kills commands, and keeps the record.

    Attributes:
      folder: holds everything that the commands write.
      kinds: the kinds of command by name.
      lost: one line for each loss.
      left: files that the undisturbed run does not leave.
      stopping: makes all threads stop waiting.
    """

    def __init__(self, folder: pathlib.Path, *, seed: int, epochs: int, progress: rich.progress.Progress, task):
        """`task` of `progress` advances with each kill and each comparison."""
        self.folder, self.seed = folder, seed
        self.kinds = {kind.name: kind for kind in list_kinds(folder, epochs)}
        self.lost: list[str] = []
        self.left: list[str] = []
        self.stopping = threading.Event()
        self._progress, self._task = progress, task
        # A cache of its own: a kill might leave a damaged entry.
        cache = {"JAX_COMPILATION_CACHE_DIR": str(folder / "cache"), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
        self._environment = {**os.environ, **cache}

    def log(self, line: str, advance: int = 1) -> None:
        """Prints a line and advances the progress bar."""
        self._progress.console.print(line, highlight=False, soft_wrap=True, markup=False)
        self._progress.advance(self._task, advance)

    def record_loss(self, home: pathlib.Path, loss: str) -> None:
        """Records that a kill cost something."""
        self.lost.append(f"{home.relative_to(self.folder)}: {loss}")
        self.log(f"LOST: {self.lost[-1]}", 0)

    @contextlib.contextmanager
    def running(self, kind: Kind, home: pathlib.Path) -> Iterator[tuple[subprocess.Popen, pathlib.Path]]:
        """Starts a command; yields its process and the file of its output, and kills it at the end of the context."""
        with tempfile.NamedTemporaryFile("w", dir=self.folder, prefix="output.", suffix=".txt") as output:
            command = [sys.executable, "-m", kind.module, *kind.flags, f"{kind.workdir_flag}={home}"]
            process = subprocess.Popen(
                command, cwd=ROOT, env=self._environment, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
            )
            try:
                yield process, pathlib.Path(output.name)
            finally:
                if process.poll() is None:
                    process.kill()
                    process.wait()

    def wait(self, process: subprocess.Popen, until: Callable[[], bool] = lambda: False, pause_s: float = 0.01) -> bool:
        """Waits until a condition holds or the process ends; returns whether the process still runs."""
        deadline = time.monotonic() + TIME_LIMIT_S
        while process.poll() is None:
            if until():
                return True
            if self.stopping.is_set() or time.monotonic() > deadline:
                raise RuntimeError("stopped" if self.stopping.is_set() else f"a run took longer than {TIME_LIMIT_S} s")
            time.sleep(pause_s)
        return False

    def run_undisturbed(self, kind: Kind) -> Undisturbed:
        """Runs a command to its end."""
        home, started = self.folder / kind.name / "undisturbed", time.monotonic()
        before = kind.read_progress(home)
        with self.running(kind, home) as (process, output):
            self.wait(process, lambda: kind.read_progress(home) != before)
            begun = time.monotonic()
            self.wait(process)
            if process.returncode:
                text = output.read_text()
                raise RuntimeError(f"the undisturbed {kind.name} ended with status {process.returncode}:\n{text}")
        start_s, work_s = begun - started, time.monotonic() - begun
        self.log(f"{kind.name}: undisturbed run, {start_s:.1f} s to start, {work_s:.1f} s of work")
        return Undisturbed(kind.read_outcome(home), list_files(home), start_s, work_s)

    def kill_repeatedly(self, name: str, quota: int) -> dict:
        """Kills commands of one kind until the quota is used up; returns the counts."""
        kind, rng = self.kinds[name], random.Random(f"{self.seed} {name}")
        undisturbed, counts, phases = self.run_undisturbed(kind), collections.Counter(), collections.Counter()
        aims, failures = draw_aims(kind, rng), 0
        for number in itertools.count():
            home, saved, earlier_kills = self.folder / name / f"run{number}", set(), counts["kills"]
            status = None
            while status is None:
                before = kind.read_progress(home)
                with self.running(kind, home) as (process, output):
                    if counts["kills"] < quota:
                        self._wait_for_aim(kind, home, process, rng, next(aims), before, undisturbed)
                        look = functools.partial(self._look, kind, home, process, before, counts)
                        status, phase = stop_and_kill(process, look)
                    else:
                        self.wait(process)
                        status = process.returncode
                    text = output.read_text()
                repeated = kind.count_repeated(home, saved, text)
                if repeated:
                    self.record_loss(home, f"{repeated} saved items were computed again")
                counts["resumed"] += bool(saved) and repeated == 0 and kind.read_progress(home) != before
                if status is None:
                    counts["kills"] += 1
                    phases[phase] += 1
                    self.log(f"{name}: killed in {phase}")
                    if not is_free(home / kind.lock):
                        self.record_loss(home, "the lock is not free after a kill")
                    saved = kind.read_saved(home)
            if status:
                self.record_loss(home, f"ended with status {status}: {read_last_line(text)}")
                failures += 1
            else:
                self.compare(kind, home, undisturbed)
                counts["runs_to_their_end"] += counts["kills"] > earlier_kills
            if counts["kills"] >= quota or failures == MAX_FAILURES:
                return {**{key: counts[key] for key in COUNTED}, "phases": dict(phases)}

    def _look(self, kind, home, process, before, counts) -> str:
        """Returns the phase of a stopped process; once, also checks that a second process is refused."""
        phase = "start" if kind.read_progress(home) == before else name_phase(home, kind.phases, kind.default_phase)
        # During the start, files of an earlier kill may remain.
        saving = (is_writing_checkpoint, is_writing_checksums, is_deleting_checkpoint)
        counts["while_saving"] += phase != "start" and any(holds(home) for holds in saving)
        if kind.refuses and not counts["second_runs_refused"] and not is_free(home / kind.lock, patience_s=0):
            counts["second_runs_refused"] += self._is_refused(kind, home, process.pid)
        return phase

    def _wait_for_aim(self, kind, home, process, rng, aim, before, undisturbed) -> None:
        """Waits for the moment of the next kill."""
        if aim == "start":
            moment = time.monotonic() + rng.uniform(0, undisturbed.start_s)
            self.wait(process, lambda: time.monotonic() > moment)
            return
        self.wait(process, lambda: kind.read_progress(home) != before, 0.001)
        wait_s = rng.uniform(0, undisturbed.work_s / 2)
        if kind.lines:
            wait_s = rng.uniform(0, 2 * undisturbed.work_s / kind.lines)
            # Choose a near epoch, so that each run is killed several times.
            if aim not in kind.late_aims:
                lines = min(len(read_metrics(home)) + rng.randrange(1 + kind.lines // 5), kind.lines - 1)
                self.wait(process, lambda: len(read_metrics(home)) >= lines, 0.002)
        if aim in kind.aims:
            self.wait(process, lambda: kind.phases[aim](home), 0)
            wait_s = rng.choice((0, rng.uniform(0, 0.05), rng.uniform(0, 0.5) if aim == "finish" else 0))
        moment = time.monotonic() + wait_s
        self.wait(process, lambda: time.monotonic() > moment, 0)

    def _is_refused(self, kind, home, pid) -> bool:
        """Whether a second process is refused and changes no file."""

        def read_times():
            return {name: (home / name).stat().st_mtime_ns for name in list_files(home)}

        before = read_times()
        with self.running(kind, home) as (process, output):
            self.wait(process)
            text = output.read_text()
        if process.returncode != 2 or f"process {pid} on " not in text or read_times() != before:
            self.record_loss(home, f"a second run ended with status {process.returncode}: {read_last_line(text)}")
            return False
        return True

    def compare(self, kind: Kind, home: pathlib.Path, undisturbed: Undisturbed) -> bool:
        """Compares the outcome and the files of a run with those of the undisturbed run; returns whether they are equal."""
        files, differences = list_files(home), find_differences(kind.read_outcome(home), undisturbed.outcome)
        missing, extra = sorted(undisturbed.files - files), sorted(files - undisturbed.files)
        if differences:
            self.record_loss(home, f"different values at {', '.join(differences[:5])}")
        if missing:
            self.record_loss(home, f"missing files: {', '.join(missing[:5])}")
        extra = [name for name in extra if str(pathlib.Path(name).parent) not in extra]
        self.left += [f"{home.relative_to(self.folder)}/{name}" for name in extra]
        verdict = "differs from" if differences or missing else "equals"
        self.log(f"{home.relative_to(self.folder)}: {verdict} the undisturbed run{f'; LEFT: {extra}' if extra else ''}", 0)
        return not (differences or missing or extra)
