"""The recordings that are finished, so that a call with --resume goes on where another one stopped.

`finished.jsonl` in the output folder gets one row per recording as soon as all its files are written. A row has a key, which says
what the files were made of, the entry of the recording in `summary.json`, its detected events, and what scoring counted.
"""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from mfl_jax.data.annotation import Recording
from mfl_jax.data.spectrogram_cache import hash_file
from mfl_jax.inference.audio_source import AudioSource
from mfl_jax.inference.output_files import OutputFiles
from mfl_jax.inference.prediction import DetectedEvent
from mfl_jax.inference.trained_model import TrainedModel
from mfl_jax.runtime.progress import progress_bar

FILE = "finished.jsonl"


@dataclasses.dataclass(frozen=True)
class FinishedRecording:
    """A row of the file.

    Attributes:
      key: from `KeyMaker`; another key means that the recording must be predicted anew.
      entry: of the recording in `summary.json`.
      detected: its events.
      counts: what was counted against the reference, as `ReferenceScores.add` returns it; None without a reference.
    """

    key: str
    entry: dict[str, Any]
    detected: tuple[DetectedEvent, ...]
    counts: dict[str, Any] | None

    @property
    def recording(self) -> str:
        return self.entry["recording"]


class FinishedRecordings:
    """The finished recordings of a call: those it reuses and those it adds. Events stay in the file, since they may be many."""

    def __init__(self, file: pathlib.Path, *, keep: bool):
        """Opens the file.

        Args:
          file: appended to by `add`; need not exist.
          keep: whether its rows can be reused; otherwise it is deleted.
        """
        self._file = file
        self._starts: dict[str, int] = {}
        self._current: set[str] = set()
        self._separator = b""
        if not keep:
            file.unlink(missing_ok=True)
        elif file.is_file():
            self._index_rows()

    def _index_rows(self) -> None:
        with self._file.open("rb") as rows:
            start = 0
            for row in rows:
                if (finished := _parse(row)) is not None:
                    self._starts[finished.recording] = start
                start += len(row)
                self._separator = b"" if row.endswith(b"\n") else b"\n"  # the last row was cut off when a call was killed

    def reuse(self, recording: str, key: str) -> bool:
        """Returns whether a recording is finished with this key; if so, it is among `all`."""
        if recording in self._starts and self._read(recording).key == key:
            self._current.add(recording)
        return recording in self._current

    def forget(self, recording: str) -> None:
        """Makes the row of a recording invalid, before its files are overwritten.

        Raises:
          OSError: the file can't be written.
        """
        if recording in self._starts:
            self._append(FinishedRecording("", {"recording": recording}, (), None))

    def add(self, finished: FinishedRecording) -> None:
        """Appends a recording.

        Raises:
          OSError: the file can't be written.
        """
        self._append(finished)
        self._current.add(finished.recording)

    def _append(self, finished: FinishedRecording) -> None:
        row = json.dumps(dataclasses.asdict(finished), ensure_ascii=False).encode(errors="replace")
        with self._file.open("ab") as rows:
            rows.write(self._separator)
            self._separator = b""
            self._starts[finished.recording] = rows.tell()
            rows.write(row + b"\n")

    def all(self) -> Iterator[FinishedRecording]:
        """Yields the recordings that were reused or added, sorted by name."""
        for recording in sorted(self._current):
            yield self._read(recording)

    def _read(self, recording: str) -> FinishedRecording:
        with self._file.open("rb") as rows:
            rows.seek(self._starts[recording])
            finished = _parse(rows.readline())
        assert finished is not None  # only valid rows are in `_starts`
        return finished


def _parse(row: bytes) -> FinishedRecording | None:
    """Returns None for a row that was cut off or is of another version."""
    try:
        fields = json.loads(row)
        detected = tuple(DetectedEvent(**event) for event in fields.pop("detected"))
        finished = FinishedRecording(**fields, detected=detected)
        return finished if isinstance(finished.recording, str) else None
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


class KeyMaker:
    """Computes the keys of recordings: sums over everything that their files depend on."""

    def __init__(self, model: TrainedModel, files: OutputFiles, **settings: Any):
        """Computes the part that all recordings share.

        Args:
          model: its parameters and config count, not where it lies.
          files: their paths and formats.
          **settings: the rules, and other values that `json.dumps` takes.
        """
        self._files = files
        arrays = hashlib.sha256()
        for path, leaf in jax.tree_util.tree_leaves_with_path((model.params, model.batch_stats, model.feature_stats)):
            arrays.update(jax.tree_util.keystr(path).encode() + np.ascontiguousarray(leaf).tobytes())
        self._shared = [
            arrays.hexdigest(), model.config.to_json_best_effort(sort_keys=True), model.scenes, model.events,
            dataclasses.asdict(model.mel), model.clip_frames, settings,
        ]  # fmt: skip

    def __call__(self, source: AudioSource, reference: Recording | None) -> str | None:
        """Returns the key of a recording; None if its file can't be read.

        Args:
          source: the recording.
          reference: its true labels, which pages show and scores count.
        """
        if not source.file.is_file():  # a pipe would wait for its writer
            return None
        try:
            audio = hash_file(source.file)
        except OSError:
            return None
        labels = None
        if reference is not None:
            events = [dataclasses.astuple(event)[:3] for event in reference.events]
            labels = [reference.scene, events, reference.events_annotated]
        paths = [str(path) for path in self._files.list_paths(source.name)]
        content = json.dumps([self._shared, audio, labels, paths], default=dataclasses.asdict)
        return hashlib.sha256(content.encode(errors="replace")).hexdigest()


def find_unfinished(
    sources: Sequence[AudioSource],
    finished: FinishedRecordings,
    make_key: KeyMaker,
    files: OutputFiles,
    references: Mapping[str, Recording],
) -> list[AudioSource]:
    """Returns the recordings that must be predicted, and reuses the others, whose files all exist."""

    def is_finished(source: AudioSource) -> bool:
        if not all((files.folder / path).is_file() for path in files.list_paths(source.name)):
            return False
        key = make_key(source, references.get(source.name))
        return key is not None and finished.reuse(source.name, key)

    with progress_bar("recordings") as bar:
        return [source for source in bar.track(sources, description="comparing") if not is_finished(source)]
