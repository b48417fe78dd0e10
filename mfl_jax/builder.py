"""What the TFDS builders under `datasets/` share: from a folder of recordings and its label lists to a prepared data set."""

import collections
import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
import tensorflow_datasets as tfds

from mfl_jax import annotations, clips
from mfl_jax.annotations import Recording
from mfl_jax.errors import InputError, warn
from mfl_jax.features import MelConfig

SPLITS = ("development", "evaluation")
FOLDS = 4


@dataclasses.dataclass(eq=False)
class AudioConfig(tfds.core.BuilderConfig):
    """A builder config with all that decides how recordings become examples.

    Attributes:
      mel: settings of the spectrograms.
      clip_s: length of a clip in seconds, a whole number of hops.
    """

    mel: MelConfig = dataclasses.field(default_factory=MelConfig)
    clip_s: float = 10.0

    @property
    def clip_frames(self) -> int:
        """Frames of a clip.

        Raises:
          InputError: a clip is no whole number of hops long.
        """
        frames = round(self.clip_s / self.mel.hop_s)
        if frames < 1 or abs(frames * self.mel.hop_s - self.clip_s) > 1e-6:
            raise InputError(f"clip_s {self.clip_s:g} is no whole number of hops of {self.mel.hop_s:g} s")
        return frames


class AnnotatedRecordings(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Base of the builders: a subclass says where recordings and label lists lie, and which labels there may be.

    Examples: `log_mel` float32 [clip_frames, mel_bins], `events` bool [clip_frames, E], `scene`, `valid_frames`, `recording`,
    `clip_start_s`, and `fold`: the cross-validation fold (1 to 4) that holds the recording out, 0 outside of development.
    """

    VERSION = tfds.core.Version("1.0.0")
    pkg_dir_path = None
    SCENES: ClassVar[Sequence[str] | None] = None
    EVENTS: ClassVar[Sequence[str] | None] = None
    RENAMED_EVENTS: ClassVar[Mapping[str, str]] = {}
    NEEDS_MANUAL_DIR = True
    ABOUT = ""

    def __init__(self, *, manual_dir: str | pathlib.Path | None = None, data_dir: str | pathlib.Path, **settings):
        """Reads the label lists, so that all that is wrong with them is known before any audio is touched.

        Args:
          manual_dir: the folder of the recordings and of `meta/`.
          data_dir: where data sets are prepared.
          **settings: `config` and others of TFDS.
        """
        self.root = pathlib.Path(manual_dir).expanduser().absolute() if manual_dir else None
        self._recordings: dict[str, list[Recording]] | None = None
        super().__init__(data_dir=data_dir, file_format="array_record", **settings)

    # What a subclass may lay down otherwise.

    @classmethod
    def config_named(cls, name: str, **audio) -> AudioConfig:
        """The builder config of a name; `audio` (clip_s and the fields of MelConfig) must be what it lays down."""
        configs = {config.name: config for config in cls.BUILDER_CONFIGS}
        if name not in configs:
            raise InputError(f"{cls.name} has no config {name!r}, but {', '.join(configs)}")
        config = configs[name]
        settings = {**dataclasses.asdict(config.mel), "clip_s": config.clip_s}
        if other := {key: value for key, value in audio.items() if value != settings[key]}:
            raise InputError(f"{cls.name}/{name} lays its audio settings down itself; not {other}: see annotated_audio")
        return config

    def label_lists(self) -> dict[str, pathlib.Path]:
        """The label list of each split."""
        return {split: self.root / "meta" / f"meta_{split}.txt" for split in SPLITS}

    def folds(self, development: Sequence[Recording]) -> dict[str, int]:
        """The fold of each development recording: dealt out in the order of paths, each scene by itself."""
        fold, dealt = {}, collections.Counter()
        for recording in sorted(development, key=lambda recording: recording.path):
            fold[recording.path] = dealt[recording.scene] % FOLDS + 1
            dealt[recording.scene] += 1
        return fold

    # What all share.

    @property
    def recordings(self) -> dict[str, list[Recording]]:
        """The recordings of each split, checked."""
        if self._recordings is None:
            self._recordings = {
                split: annotations.read_label_list(file, scenes=self.SCENES, events=self.EVENTS, renamed=self.RENAMED_EVENTS)
                for split, file in self.label_lists().items()
            }
            development, evaluation = ({recording.path for recording in self._recordings[split]} for split in SPLITS)
            if both := sorted(development & evaluation):
                raise InputError(f"{len(both)} recordings are both in development and in evaluation; the first: {both[0]}")
        return self._recordings

    def _vocabulary(self) -> tuple[list[str], list[str]]:
        everything = [recording for split in SPLITS for recording in self.recordings[split]]
        scenes = self.SCENES or sorted({recording.scene for recording in everything})
        events = self.EVENTS or sorted({event.label for recording in everything for event in recording.events})
        if not events:
            raise InputError(f"{self.label_lists()['development']}: the label lists name no event at all")
        return list(scenes), list(events)

    def _info(self) -> tfds.core.DatasetInfo:
        scenes, events = self._vocabulary()
        config = self.builder_config
        about = {
            "events": events,
            "mel": dataclasses.asdict(config.mel),
            "recordings": {split: [dataclasses.astuple(r) for r in self.recordings[split]] for split in SPLITS},
        }
        fingerprint = hashlib.sha256(json.dumps([scenes, config.clip_frames, about]).encode()).hexdigest()
        about["recordings"] = {
            split: [[r.path, r.scene, [[e.onset_s, e.offset_s, e.label] for e in r.events]] for r in self.recordings[split]]
            for split in SPLITS
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.ABOUT,
            features=tfds.features.FeaturesDict(
                {
                    "log_mel": tfds.features.Tensor(
                        shape=(config.clip_frames, config.mel.mel_bins), dtype=np.float32, encoding=tfds.features.Encoding.BYTES
                    ),
                    "events": tfds.features.Tensor(
                        shape=(config.clip_frames, len(events)), dtype=np.bool_, encoding=tfds.features.Encoding.ZLIB
                    ),
                    "scene": tfds.features.ClassLabel(names=scenes),
                    "valid_frames": tfds.features.Scalar(np.int32),
                    "recording": tfds.features.Text(),
                    "clip_start_s": tfds.features.Scalar(np.float64),
                    "fold": tfds.features.Scalar(np.int32),
                }
            ),
            metadata=tfds.core.MetadataDict({**about, "fingerprint": fingerprint}),
        )

    def _split_generators(self, dl_manager):
        del dl_manager  # nothing is downloaded
        for split in SPLITS:
            clips.check_recordings(self.recordings[split], self.root)
        return {split: self._generate_examples(split) for split in SPLITS}

    def _generate_examples(self, split: str):
        fold = self.folds(self.recordings[split]) if split == "development" else {}
        notes = clips.Notes()
        for key, example in clips.clips_of(
            self.recordings[split],
            self.root,
            events=self._vocabulary()[1],
            mel=self.builder_config.mel,
            clip_frames=self.builder_config.clip_frames,
            notes=notes,
            what=f"{self.name}/{self.builder_config.name}, {split}",
        ):
            yield key, example | {"fold": fold.get(example["recording"], 0)}
        for line in notes.lines():
            warn(f"{self.name}, {split}: {line}")
