"""From a prepared TFDS folder to batches, padded and masked."""

import dataclasses
import json
import pathlib

import numpy as np
import tensorflow_datasets as tfds

from mfl_jax.data.annotation import Event, Recording
from mfl_jax.data.mel_spectrogram import MelConfig
from mfl_jax.errors import InputError

IN_MEMORY_BYTES = 8 << 30
"""A split up to this size is held in memory; a larger one is read from the disk, batch by batch."""
PLACES = ("fold", "recording", "clip_start_s")
"""What examples tell of where a clip comes from."""


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A prepared data set.

    Attributes:
      directory: the TFDS folder of the version.
      scenes, events: the vocabularies; class m of an array is their entry m.
      mel: what its log-mel spectrograms were computed with.
      clip_frames: frames of a clip.
      clips: number of clips of each split.
      fingerprint: stands for the label lists, the settings and every sample of the recordings; differs when one of them does.
    """

    directory: pathlib.Path
    scenes: tuple[str, ...]
    events: tuple[str, ...]
    mel: MelConfig
    clip_frames: int
    clips: dict[str, int]
    fingerprint: str

    def recordings(self, split: str) -> list[Recording]:
        """The recordings of a split with their events, as the label list has them.

        Raises:
          InputError: the data set was prepared by a version that did not keep them.
        """
        self._check_split(split)
        metadata = tfds.builder_from_directory(self.directory).info.metadata
        if "recordings" not in metadata:
            raise InputError(f"{self.directory}: prepared by an older version, without label lists; delete it to prepare anew")
        return [
            Recording(path, scene, tuple(Event(onset, offset, label) for onset, offset, label in events))
            for path, scene, events in metadata["recordings"][split]
        ]

    def _check_split(self, split):
        if split not in self.clips:
            raise InputError(f"{self.directory}: there is no split {split!r}, but {', '.join(self.clips)}")

    def read(self, split: str) -> "Clips":
        """Opens a split, `development` or `evaluation`."""
        self._check_split(split)
        return Clips(tfds.builder_from_directory(self.directory).as_data_source(split))


def find_directory(dataset: str, data_dir: str | pathlib.Path) -> pathlib.Path | None:
    """The folder of the newest prepared version of `builder/config` below `data_dir`, None where there is none."""
    versions = [path.parent for path in pathlib.Path(data_dir, dataset).glob("[0-9]*/dataset_info.json")]
    return max(versions, key=lambda path: [int(part) for part in path.name.split(".")], default=None)


def open_dataset(dataset: str, data_dir: str | pathlib.Path) -> Dataset | None:
    """Opens the prepared data set `builder/config`; None where it is not prepared.

    Raises:
      InputError: the folder was not made by a builder of this project, or does not hold together.
    """
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
    """Raises a ValueError where the data would have TFDS import code that is not its own, as data from a stranger could."""

    def classes(node):
        if isinstance(node, dict):
            for key, value in node.items():
                if key in ("pythonClassName", "python_class_name", "type"):
                    yield value
                yield from classes(value)
        elif isinstance(node, list):
            for value in node:
                yield from classes(value)

    for name in classes(json.loads((directory / "features.json").read_text(encoding="utf-8"))):
        if not str(name).startswith("tensorflow_datasets.core.features."):
            raise ValueError(f"features.json asks for the code of {str(name)[:80]!r}")


def _text(value) -> str:
    return value.decode() if isinstance(value, bytes) else value


class Clips:
    """The clips of a split, by number; held in memory where they fit.

    Attributes:
      fold: int [shape=(n,)], the fold that holds the recording of each clip out; 0 for none.
      recording: str [shape=(n,)], its path. clip_start_s: float64 [shape=(n,)], where in it the clip begins.
    """

    def __init__(self, source, in_memory_bytes: int = IN_MEMORY_BYTES):
        """`source` is a random-access TFDS data source."""
        self._source = source
        self._arrays = None
        if len(source):
            clip_bytes = sum(value.nbytes for value in self._from_source([0]).values())
            if clip_bytes * len(source) <= in_memory_bytes:
                self._arrays = self._from_source(range(len(source)))
        self.fold, self.recording, self.clip_start_s = self._places()

    def __len__(self):
        return len(self._source)

    def _from_source(self, numbers) -> dict[str, np.ndarray]:
        examples = self._source.__getitems__([int(number) for number in numbers])
        return {
            "log_mel": np.stack([example["log_mel"] for example in examples]),
            "events": np.stack([example["events"] for example in examples]),
            "scene": np.asarray([example["scene"] for example in examples], np.int32),
            "valid_frames": np.asarray([example["valid_frames"] for example in examples], np.int32),
            "fold": np.asarray([example["fold"] for example in examples], np.int32),
            "recording": np.asarray([_text(example["recording"]) for example in examples], np.str_),
            "clip_start_s": np.asarray([example["clip_start_s"] for example in examples], np.float64),
        }

    def _places(self) -> list[np.ndarray]:
        """`PLACES` of all clips."""
        if self._arrays is not None:
            return [self._arrays.pop(name) for name in PLACES]
        parts = [self._from_source(part) for part in split_numbers(np.arange(len(self)), 256)]
        return [np.concatenate([part[name] for part in parts]) if parts else np.zeros(0, int) for name in PLACES]

    @property
    def arrays(self) -> dict[str, np.ndarray] | None:
        """What `take` takes from, for all clips at once; None for a split that stays on the disk."""
        return self._arrays

    def take(self, numbers: np.ndarray) -> dict[str, np.ndarray]:
        """Returns `log_mel`, `events`, `scene` and `valid_frames` of the clips with these numbers, of which there may be none."""
        if not len(numbers):
            return {key: value[:0] for key, value in self.take(np.zeros(1, int)).items()}
        if self._arrays is not None:
            return {key: value[numbers] for key, value in self._arrays.items()}
        return {key: value for key, value in self._from_source(numbers).items() if key not in PLACES}


def split_numbers(numbers: np.ndarray, size: int) -> list[np.ndarray]:
    return [numbers[start : start + size] for start in range(0, len(numbers), size)]
