"""Predicts recordings and writes their files, with a progress bar; the work behind `python -m mfl_jax.predict`."""

import collections
import contextlib
import dataclasses
import errno
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import rich.console
import rich.progress

from mfl_jax.data.annotation import Recording
from mfl_jax.errors import InputError
from mfl_jax.inference import postprocessing, streaming
from mfl_jax.inference.audio_source import AudioSource, read_duration_s
from mfl_jax.inference.finished_recordings import FinishedRecording, FinishedRecordings, KeyMaker
from mfl_jax.inference.output_files import OutputFiles
from mfl_jax.inference.prediction import Prediction, UnreadableRecording
from mfl_jax.inference.trained_model import TrainedModel
from mfl_jax.runtime.progress import progress_bar
from mfl_jax.runtime.stop_signal import stop_requests

NAME_ERRORS = (errno.ENAMETOOLONG, errno.EISDIR, errno.ENOTDIR)
"""Errors caused by the name of one recording; others, such as a full disk, affect all recordings."""


@dataclasses.dataclass(frozen=True)
class FinishedRun:
    """The outcome of a prediction.

    Attributes:
      recordings: one entry per recording, sorted by name, as in `summary.json`. Entries with a key `refused` give the reason why
        a recording was not predicted.
      audio_s: seconds of audio that were predicted.
      wall_s: seconds that it took.
      remaining: number of recordings that were not finished before Ctrl-C or SIGTERM.
      reused: number of recordings whose files an earlier call wrote.
      reused_s: seconds of audio in them.
    """

    recordings: list[dict[str, Any]]
    audio_s: float
    wall_s: float
    remaining: int = 0
    reused: int = 0
    reused_s: float = 0.0

    def with_reused(self, entries: Sequence[dict[str, Any]]) -> "FinishedRun":
        """Returns the outcome with the entries of reused recordings."""
        recordings = sorted([*self.recordings, *entries], key=lambda entry: entry["recording"])
        reused_s = sum(entry["duration_s"] for entry in entries)
        return dataclasses.replace(self, recordings=recordings, reused=len(entries), reused_s=reused_s)

    @property
    def done(self) -> list[dict[str, Any]]:
        return [entry for entry in self.recordings if "refused" not in entry]

    @property
    def refused(self) -> list[dict[str, Any]]:
        return [entry for entry in self.recordings if "refused" in entry]


def predict_to_files(
    model: TrainedModel,
    sources: Sequence[AudioSource],
    files: OutputFiles,
    finished: FinishedRecordings,
    make_key: KeyMaker,
    *,
    overlap: float,
    rules: Mapping[str, postprocessing.Rule],
    references: Mapping[str, Recording],
    score: Callable[[Prediction, Recording], dict] | None = None,
) -> FinishedRun:
    """Predicts recordings and writes their files. Recordings that can't be read or written are reported and skipped.

    Ctrl-C and SIGTERM end the work after the current window.

    Args:
      model: the model, from `mfl_jax.load`.
      sources: the recordings.
      files: where to write.
      finished: gets each recording whose files are written.
      make_key: for `finished`.
      overlap: share of a window that overlaps the next one, in [0, 1).
      rules: post-processing rule of each event.
      references: true labels of recordings, by the name of the recording; may be incomplete.
      score: called with each prediction that has a reference; returns what it counted.

    Raises:
      InputError: files can't be written for a reason that affects all recordings.
    """
    console = rich.console.Console(stderr=True)
    entries = []
    by_name = {source.name: source for source in sources}
    with contextlib.ExitStack() as stack:
        stop = stack.enter_context(stop_requests(advice="the same command with --resume goes on"))
        progress = stack.enter_context(_show_progress(console, sources, stop))
        stack.enter_context(contextlib.suppress(_Stopped))
        results = streaming.predict_recordings(
            model, sources, overlap=overlap, rules=rules, keep_clips=score is not None, on_progress=progress.add_audio
        )
        for result in stack.enter_context(contextlib.closing(results)):
            progress.add_recording()
            if isinstance(result, UnreadableRecording):
                name, reason = result.source.name, result.reason.removeprefix(f"{result.source.place}: ")
            else:
                name, reference = result.recording, references.get(result.recording)
                finished.forget(name)
                if not (reason := _write_files(files, result, reference)):
                    counts = None if score is None or reference is None else score(result, reference)
                    entries.append(entry := _summarise(result))
                    key = make_key(by_name[name], reference)
                    finished.add(FinishedRecording(key or "", entry, result.detected, counts))
            if reason:
                console.print(f"refused: {name}: {reason}", style="red", soft_wrap=True, highlight=False, markup=False)
                entries.append({"recording": name, "refused": reason})
            progress.check_stop()
    entries.sort(key=lambda entry: entry["recording"])
    return FinishedRun(entries, progress.audio_s, progress.wall_s, remaining=len(sources) - len(entries))


class _Stopped(Exception):
    """Raised after Ctrl-C or SIGTERM, even in the middle of a long recording."""


class _Progress:
    """Counts seconds of audio on a progress bar, and recordings in its text; ends the work when it is asked to stop."""

    def __init__(self, bar: rich.progress.Progress, total_s: float | None, recordings: int, stop: threading.Event):
        self.audio_s = 0.0
        self._stop = stop
        self._recordings = 0
        self._started = time.perf_counter()
        self._bar = bar
        self._task = bar.add_task("predicting", total=total_s, done=0, of=recordings, rate="")

    @property
    def wall_s(self) -> float:
        return time.perf_counter() - self._started

    def check_stop(self) -> None:
        if self._stop.is_set():
            raise _Stopped

    def add_audio(self, seconds: float) -> None:
        self.check_stop()
        self.audio_s += seconds
        self._bar.update(self._task, completed=self.audio_s, rate=f"{self.audio_s / self.wall_s:.0f} x real time")

    def add_recording(self) -> None:
        self._recordings += 1
        self._bar.update(self._task, done=self._recordings)


@contextlib.contextmanager
def _show_progress(
    console: rich.console.Console, sources: Sequence[AudioSource], stop: threading.Event
) -> Iterator[_Progress]:  # fmt: skip
    # Most recordings of unknown length can't be read, so they hardly change the total.
    total_s = sum(read_duration_s(source) or 0 for source in sources) or None
    count = rich.progress.TextColumn("{task.fields[done]}/{task.fields[of]} recordings,")
    with progress_bar("{task.fields[rate]},", count, console=console) as bar:
        yield _Progress(bar, total_s, len(sources), stop)


def _write_files(files: OutputFiles, prediction: Prediction, reference: Recording | None) -> str:
    """Writes the files of a prediction; returns why they can't be written, or an empty string."""
    try:
        files.write(prediction, None if reference is None else reference.events)
    except OSError as error:
        reason = f"can't be written ({error.strerror or error})"
        if error.errno in NAME_ERRORS:
            return reason
        raise InputError(f"{files.folder}: {prediction.recording} {reason}") from None
    return ""


def _summarise(prediction: Prediction) -> dict[str, Any]:
    events = collections.Counter(event.label for event in prediction.detected)
    entry = {
        "recording": prediction.recording,
        "duration_s": prediction.duration_s,
        "scene": prediction.scene_label,
        "scene_probability": float(prediction.scene.max()) if prediction.scenes else None,
        "events": dict(events.most_common()),
    }
    return entry | ({"warning": prediction.warning} if prediction.warning else {})
