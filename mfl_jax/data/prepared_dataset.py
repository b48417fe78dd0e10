"""Opens prepared data sets and reads their clips."""

import dataclasses
import json
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from mfl_jax.data.annotation import Event, Recording
from mfl_jax.data.mel_spectrogram import MelConfig
from mfl_jax.data.random_crops import cut_windows, find_next_clips
from mfl_jax.data.scene_mask import scene_mask
from mfl_jax.errors import InputError

IN_MEMORY_BYTES = 8 << 30
"""Splits up to this size are kept in memory; larger ones are read from disk, batch by batch."""
ORIGIN_FIELDS = ("fold", "recording", "clip_start_s", "event_mask")
"""Fields of all clips that are kept in memory, even if the clips are not."""
READ_AT_ONCE = 256
"""Clips to read at a time for their origins."""


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A prepared data set.

    Attributes:
      directory: TFDS folder of the version.
      scenes: scene labels in the order of their class indices; empty if the label lists name none.
      events: event labels in the order of their class indices; empty if the label lists name none.
      mel: settings of the log-mel spectrograms.
      clip_frames: frames per clip.
      clips: number of clips of each split.
      fingerprint: hash of the label lists, the settings and all samples of the recordings.
    """

    directory: pathlib.Path
    scenes: tuple[str, ...]
    events: tuple[str, ...]
    mel: MelConfig
    clip_frames: int
    clips: dict[str, int]
    fingerprint: str

    def recordings(self, split: str) -> list[Recording]:
        """Returns the recordings of a split with their events and groups, in the order of the label list.

        Raises:
          InputError: the data set was prepared by an older version that did not store them.
        """
        import tensorflow_datasets as tfds  # imported here and below, because it takes seconds

        self._check_split(split)
        metadata = tfds.builder_from_directory(self.directory).info.metadata
        if "recordings" not in metadata:
            raise InputError(f"{self.directory}: prepared by an older version, without label lists; delete it and prepare again")
        groups = metadata.get("groups", {}).get(split, {})
        unannotated = set(metadata.get("events_not_annotated", {}).get(split, []))
        return [
            Recording(path, scene, tuple(Event(*event) for event in events), groups.get(path, ""), path not in unannotated)
            for path, scene, events in metadata["recordings"][split]
        ]

    def sources(self) -> dict[str, Any] | None:
        """Returns what the data set was prepared from.

        Returns:
          {"lists": {split or other name: [path below the folder of the recordings, SHA-256 sum or None if missing]},
          "recordings": {path: [bytes, SHA-256 sum]}}; an empty dictionary if its builder makes its own recordings; None if an
          older version prepared it.
        """
        import tensorflow_datasets as tfds

        return tfds.builder_from_directory(self.directory).info.metadata.get("sources")

    def _check_split(self, split: str) -> None:
        if split not in self.clips:
            raise InputError(f"{self.directory}: there is no split {split!r}, only {', '.join(self.clips)}")

    def read(self, split: str, *, min_clip_share: float = 0.0) -> "Clips":
        """Opens a split, `development` or `evaluation`.

        Args:
          split: its name.
          min_clip_share: as in the config; clips with a smaller share of valid frames do not count for scenes (`scene_mask`).

        Raises:
          InputError: there is no such split, or a spectrogram is not finite.
        """
        import tensorflow_datasets as tfds

        self._check_split(split)
        source = tfds.builder_from_directory(self.directory).as_data_source(split)
        return Clips(source, name=str(self.directory), min_clip_share=min_clip_share, has_scenes=bool(self.scenes))


def find_directory(dataset: str, data_dir: str | pathlib.Path) -> pathlib.Path | None:
    """Finds the folder of the newest prepared version of `builder/config` in `data_dir`, or returns None."""
    versions = [path.parent for path in pathlib.Path(data_dir, dataset).glob("[0-9]*/dataset_info.json")]
    return max(versions, key=lambda path: [int(part) for part in path.name.split(".")], default=None)


def open_dataset(dataset: str, data_dir: str | pathlib.Path) -> Dataset | None:
    """Opens the prepared data set `builder/config`; returns None if it is not prepared.

    Raises:
      InputError: the folder is damaged, or was not written by a builder of this project.
    """
    import tensorflow_datasets as tfds

    directory = find_directory(dataset, data_dir)
    if directory is None:
        return None
    try:
        _check_features(directory)
        info = tfds.builder_from_directory(directory).info
        about = info.metadata
        return Dataset(
            directory=directory,
            scenes=tuple(info.features["scene"].names),
            events=tuple(about["events"]),
            mel=MelConfig(**about["mel"]),
            clip_frames=info.features["log_mel"].shape[0],
            clips={name: split.num_examples for name, split in info.splits.items()},
            fingerprint=about["fingerprint"],
        )
    except Exception as error:
        raise InputError(
            f"{directory}: not a data set prepared by mfl_jax ({error}); delete the folder and prepare again"
        ) from None


def _check_features(directory: pathlib.Path) -> None:
    """Checks that TFDS would only import its own feature classes, since data from strangers could name any other code.

    Raises:
      ValueError: features.json names another class.
    """

    def find_classes(node: object) -> Iterator[object]:
        if isinstance(node, dict):
            for key, value in node.items():
                if key in ("pythonClassName", "python_class_name", "type"):
                    yield value
                yield from find_classes(value)
        elif isinstance(node, list):
            for value in node:
                yield from find_classes(value)

    for name in find_classes(json.loads((directory / "features.json").read_text(encoding="utf-8"))):
        if not str(name).startswith("tensorflow_datasets.core.features."):
            raise ValueError(f"features.json names the class {str(name)[:80]!r}, which is not a feature of TFDS")


def _decode(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value


class Clips:
    """The clips of a split, accessed by index; kept in memory if they fit.

    Attributes:
      fold: int [shape=(n,)], cross-validation fold that holds the recording of each clip out; 0 for none.
      recording: str [shape=(n,)], path of the recording of each clip.
      clip_start_s: float64 [shape=(n,)], start of each clip in its recording.
      scene_mask: bool [shape=(n,)], whether the scene of each clip counts: it is annotated, and the clip is long enough.
      event_mask: bool [shape=(n,)], whether the events of each clip are annotated.
      valid_frames: int [shape=(n,)], frames of each clip before the padding.
      next_clip: int [shape=(n,)], number of the clip that follows in the recording; the clip's own number if it is the last.
    """

    def __init__(
        self,
        source: Any,
        in_memory_bytes: int = IN_MEMORY_BYTES,
        *,
        name: str = "the data set",
        min_clip_share: float = 0.0,
        has_scenes: bool = True,
    ):
        """Reads the clips if they fit into memory, and checks that all spectrograms are finite.

        Older versions prepared recordings whose power overflows. One such clip makes every loss NaN.

        Args:
          source: a random-access data source of TFDS.
          in_memory_bytes: keep splits up to this size in memory.
          name: of the data set, for error messages.
          min_clip_share: as in `Dataset.read`.
          has_scenes: whether the data set has scenes; in one of events alone, `scene_mask` depends on the length alone.

        Raises:
          InputError: a spectrogram is not finite.
        """
        self._source, self._name = source, name
        self._arrays: dict[str, np.ndarray] | None = None
        clip_frames = 0
        if len(source):
            first = self._read([0])
            clip_frames, clip_bytes = first["log_mel"].shape[1], sum(array.nbytes for array in first.values())
            if clip_bytes * len(source) <= in_memory_bytes:
                self._arrays = self._read(range(len(source)))
                for start in range(0, len(source), READ_AT_ONCE):
                    self._check_finite({key: array[start : start + READ_AT_ONCE] for key, array in self._arrays.items()})
        self.fold, self.recording, self.clip_start_s, self.event_mask, scenes, self.valid_frames = self._read_origins()
        self.next_clip = find_next_clips(self.recording, self.clip_start_s)
        self.scene_mask = scene_mask(
            self.valid_frames, self.clip_start_s, clip_frames=clip_frames, min_clip_share=min_clip_share
        )  # fmt: skip
        if has_scenes:
            self.scene_mask &= scenes >= 0
        if self._arrays is not None:
            self._arrays |= {"scene_mask": self.scene_mask, "event_mask": self.event_mask}

    def __len__(self) -> int:
        return len(self._source)

    def _read(self, indices: Iterable[int]) -> dict[str, np.ndarray]:
        """Reads all fields of clips from the source."""
        examples = self._source.__getitems__([int(index) for index in indices])
        return {
            "log_mel": np.stack([example["log_mel"] for example in examples]),
            "events": np.stack([example["events"] for example in examples]),
            # Older versions had no such field, and all events annotated.
            "event_mask": np.asarray([example.get("events_annotated", True) for example in examples], bool),
            "scene": np.asarray([example["scene"] for example in examples], np.int32),
            "valid_frames": np.asarray([example["valid_frames"] for example in examples], np.int32),
            "fold": np.asarray([example["fold"] for example in examples], np.int32),
            "recording": np.asarray([_decode(example["recording"]) for example in examples], np.str_),
            "clip_start_s": np.asarray([example["clip_start_s"] for example in examples], np.float64),
        }

    def _read_origins(self) -> list[np.ndarray]:
        """Returns `ORIGIN_FIELDS`, `scene` and `valid_frames` of all clips; removes the first from the arrays in memory."""
        if self._arrays is not None:
            return [*(self._arrays.pop(field) for field in ORIGIN_FIELDS), self._arrays["scene"], self._arrays["valid_frames"]]
        fields = (*ORIGIN_FIELDS, "scene", "valid_frames")
        count = len(self)
        parts = []
        for start in range(0, count, READ_AT_ONCE):
            arrays = self._read(range(start, min(start + READ_AT_ONCE, count)))
            self._check_finite(arrays)
            parts.append([arrays[field] for field in fields])
        return [np.concatenate(field) for field in zip(*parts, strict=True)] if parts else [np.zeros(0, int)] * len(fields)

    def _check_finite(self, arrays: dict[str, np.ndarray]) -> None:
        finite = np.isfinite(arrays["log_mel"]).all((1, 2))
        if not finite.all():
            clip = int(finite.argmin())
            place = f"{arrays['recording'][clip]} at {arrays['clip_start_s'][clip]:g} s"
            raise InputError(
                f"{self._name}: the spectrogram of {place} is not finite; repair that recording or leave it out, delete the data "
                "set and prepare it again"
            )

    @property
    def arrays(self) -> dict[str, np.ndarray] | None:
        """The arrays of all clips that `take` selects from; None for a split that stays on disk."""
        return self._arrays

    def take(self, indices: np.ndarray, offsets: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """Returns `log_mel`, `events`, `scene`, `valid_frames`, `scene_mask` and `event_mask` of clips, possibly none.

        `scene` is -1 where the scene is not annotated; `events` is False where events are not annotated.

        Args:
          indices: numbers of the clips, int [shape=(n,)].
          offsets: from `random_crops.draw_offsets`, int [shape=(n,)]: how many frames later each clip starts. Default: 0.
        """
        if offsets is not None and offsets.any():
            return self._take_windows(indices, offsets)
        if not len(indices):
            return {field: array[:0] for field, array in self.take(np.zeros(1, int)).items()}
        if self._arrays is not None:
            return {field: array[indices] for field, array in self._arrays.items()}
        arrays = {field: array for field, array in self._read(indices).items() if field not in ORIGIN_FIELDS}
        return arrays | {"scene_mask": self.scene_mask[indices], "event_mask": self.event_mask[indices]}

    def _take_windows(self, indices: np.ndarray, offsets: np.ndarray) -> dict[str, np.ndarray]:
        """As `take`; reads the next clip of those that are moved."""
        arrays, is_moved = self.take(indices), offsets > 0
        following = self.take(self.next_clip[indices[is_moved]])
        for field in ("log_mel", "events"):
            arrays[field][is_moved] = cut_windows(arrays[field][is_moved], following[field], offsets[is_moved])
        return arrays
