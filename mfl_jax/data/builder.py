"""What the TFDS builders under `datasets/` share: from a folder of recordings and its label lists to a prepared data set."""

import collections
import dataclasses
import errno
import functools
import hashlib
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core import dataset_builder, example_serializer, file_adapters, hashing
from tensorflow_datasets.core.utils import shard_utils

from mfl_jax.data import beam_pipeline, clip_cutting, label_list, spectrogram_cache
from mfl_jax.data.annotation import Recording
from mfl_jax.data.clip_cutting import Clip
from mfl_jax.data.mel_spectrogram import MelConfig
from mfl_jax.data.spectrogram_cache import Spectrogram
from mfl_jax.errors import InputError, warn
from mfl_jax.runtime import storage
from mfl_jax.runtime.progress import progress_bar

SPECTROGRAMS = ".spectrograms"
"""The folder beside the versions of a data set that holds what preparing it is made of, until it is whole."""
FORMAT = file_adapters.FileFormat.ARRAY_RECORD
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


def tfds_features(*, clip_frames: int, mel_bins: int, scenes: Sequence[str], events: Sequence[str]) -> tfds.features.FeaturesDict:
    """What an example holds."""
    return tfds.features.FeaturesDict(
        {
            "log_mel": tfds.features.Tensor(
                shape=(clip_frames, mel_bins), dtype=np.float32, encoding=tfds.features.Encoding.BYTES
            ),
            "events": tfds.features.Tensor(
                shape=(clip_frames, len(events)), dtype=np.bool_, encoding=tfds.features.Encoding.ZLIB
            ),
            "scene": tfds.features.ClassLabel(names=scenes),
            "valid_frames": tfds.features.Scalar(np.int32),
            "recording": tfds.features.Text(),
            "clip_start_s": tfds.features.Scalar(np.float64),
            "fold": tfds.features.Scalar(np.int32),
        }
    )


def write_shard(plan: str, advance: Callable[[], object] = lambda: None) -> None:
    """Writes a shard of a data set, clip by clip.

    Args:
      plan: a JSON file that says which, and of which clips, in their order. advance: called after each clip.

    Raises:
      OSError: a spectrogram can't be read, or the shard can't be written.
    """
    about = json.loads(pathlib.Path(plan).read_bytes())
    mel, clip_frames, events = MelConfig(**about["mel"]), about["clip_frames"], about["events"]
    features = tfds_features(clip_frames=clip_frames, mel_bins=mel.mel_bins, scenes=about["scenes"], events=events)
    serializer = example_serializer.ExampleSerializer(features.get_serialized_info())

    def records():
        for clip in map(Clip.of_row, about["clips"]):
            example = clip_cutting.cut_clip(clip, events=events, mel=mel, clip_frames=clip_frames)
            record = serializer.get_tf_example(features.encode_example(example))
            yield clip.key, record.SerializeToString(deterministic=True)
            advance()

    shard, adapter = pathlib.Path(about["shard"]), file_adapters.ADAPTER_FOR_FORMAT[FORMAT]
    with spectrogram_cache.atomic_folder(shard) as part:
        try:
            adapter.write_examples(part, records())
            written = adapter.num_examples(part)
        except RuntimeError as error:  # what ArrayRecord makes of a full disk
            raise OSError(errno.EIO, str(error), str(shard)) from None
        if written != len(about["clips"]):
            raise OSError(errno.EIO, f"{written} of {len(about['clips'])} clips were written", str(shard))


class AnnotatedRecordings(dataset_builder.FileReaderBuilder, skip_registration=True):
    """Base of the builders: a subclass says where recordings and label lists lie, and which labels there may be.

    Preparing has two stages: the spectrogram of each recording, kept in a folder beside the data set, then the shards, cut from
    them. Both are done by this machine, or by the workers of a Beam pipeline, to the same bytes.

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

    def __init__(self, *, manual_dir: str | pathlib.Path | None = None, data_dir: str | pathlib.Path, beam: str = "", **settings):
        """Reads the label lists, so that all that is wrong with them is known before any audio is touched.

        Args:
          manual_dir: the folder of the recordings and of `meta/`.
          data_dir: where data sets are prepared.
          beam: options of the Beam pipeline that prepares; empty for this machine.
          **settings: `config` and others of TFDS.
        """
        self.beam = beam
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
                split: label_list.read_label_list(file, scenes=self.SCENES, events=self.EVENTS, renamed=self.RENAMED_EVENTS)
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
            "recordings": {
                split: [[r.path, r.scene, [[e.onset_s, e.offset_s, e.label] for e in r.events]] for r in self.recordings[split]]
                for split in SPLITS
            },
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.ABOUT,
            features=tfds_features(clip_frames=config.clip_frames, mel_bins=config.mel.mel_bins, scenes=scenes, events=events),
            metadata=tfds.core.MetadataDict(about),
        )

    def _fingerprint(self, kept: Mapping[str, Spectrogram]) -> str:
        """Stands for label lists, settings and every sample."""
        scenes, events = self._vocabulary()
        config = self.builder_config
        about = {
            "events": events,
            "mel": dataclasses.asdict(config.mel),
            "recordings": {split: [dataclasses.astuple(r) for r in self.recordings[split]] for split in SPLITS},
            "audio": {split: [kept[r.path].sha256 for r in self.recordings[split]] for split in SPLITS},
        }
        return hashlib.sha256(json.dumps([scenes, config.clip_frames, about]).encode()).hexdigest()

    def _download_and_prepare(self, dl_manager, download_config):
        del dl_manager  # nothing is downloaded
        for split in SPLITS:
            clip_cutting.check_recordings(self.recordings[split], self.root)
        folder = pathlib.Path(self.data_path.parent, SPECTROGRAMS)
        folder.mkdir(exist_ok=True)
        kept = self._keep_spectrograms(folder)
        self.info.metadata["fingerprint"] = self._fingerprint(kept)
        shards = {split: self._plan_shards(split, kept, download_config, folder) for split in SPLITS}
        plans = {plan: clips_ for of_split in shards.values() for _, plan, clips_ in of_split}
        if self.beam:
            beam_pipeline.for_each(plans, write_shard, self.beam, file=folder / "shards.json")
        else:
            with progress_bar("clips,") as bar:
                task = bar.add_task(f"{self.name}/{self.builder_config.name}, clips", total=sum(plans.values()))
                for plan in plans:
                    write_shard(plan, functools.partial(bar.advance, task))
        infos = []
        for split, of_split in shards.items():
            files, _, lengths = zip(*of_split, strict=True)
            size = sum(file.stat().st_size for file in files)
            infos.append(tfds.core.SplitInfo(split, list(lengths), size, self._get_filename_template(split)))
        self.info.set_splits(tfds.core.SplitDict(infos))

    def _keep_spectrograms(self, folder: pathlib.Path) -> dict[str, Spectrogram]:
        """The spectrogram of each recording, by path."""
        listed = [recording for split in SPLITS for recording in self.recordings[split]]
        places = {"root": self.root, "folder": folder, "mel": self.builder_config.mel}
        kept = spectrogram_cache.find_all([recording.path for recording in listed], **places)
        if kept:
            warn(f"{folder}: {len(kept)} of {len(listed)} spectrograms are there from a preparation that was broken off")
        missing = [recording for recording in listed if recording.path not in kept]
        what = f"{self.name}/{self.builder_config.name}, spectrograms"
        if not missing:
            return kept
        if not self.beam:
            return kept | {r.path: made for r, made in spectrogram_cache.keep_all(missing, what=what, **places)}
        paths = [recording.path for recording in missing]
        beam_pipeline.for_each(
            paths, functools.partial(spectrogram_cache.keep, **places), self.beam, file=folder / "recordings.json"
        )
        kept |= spectrogram_cache.find_all(paths, **places)
        if lost := [path for path in paths if path not in kept]:
            raise InputError(
                f"{folder}: {len(lost)} spectrograms that the workers of the pipeline made are not there, the first is of "
                f"{lost[0]}; --config.data_dir and the recordings lie where all of them reach them under the same path"
            )
        return kept

    def _plan_shards(self, split, kept, download_config, folder) -> list[tuple[pathlib.Path, str, int]]:
        """Writes the plan of each shard of a split; returns (file of the shard, its plan, number of clips)."""
        config, (scenes, events) = self.builder_config, self._vocabulary()
        fold = self.folds(self.recordings[split]) if split == "development" else {}
        notes = clip_cutting.Oddities()
        mel, clip_frames = config.mel, config.clip_frames
        ordered = [
            clip
            for recording in self.recordings[split]
            for clip in clip_cutting.list_clips(
                recording, kept[recording.path], mel=mel, clip_frames=clip_frames, notes=notes, fold=fold.get(recording.path, 0)
            )
        ]
        for line in notes.lines():
            warn(f"{self.name}, {split}: {line}")
        # The order that TFDS gives to examples by default, and its rules for the number of shards.
        hasher = hashing.Hasher(split)
        ordered.sort(key=lambda clip: hasher.hash_key(clip.key))
        size = len(ordered) * clip_frames * mel.mel_bins * np.dtype(np.float32).itemsize
        count = download_config.get_shard_config().get_number_shards(size, len(ordered))
        ends = shard_utils.get_shard_boundaries(len(ordered), count)
        about = {"mel": dataclasses.asdict(mel), "clip_frames": clip_frames, "scenes": scenes, "events": events}
        planned = []
        for number, (start, end) in enumerate(zip([0, *ends], ends, strict=False)):
            shard = pathlib.Path(self._get_filename_template(split).sharded_filepath(shard_index=number, num_shards=count))
            plan = folder / f"{shard.name}.json"
            rows = [clip.row() for clip in ordered[start:end]]
            storage.atomic_write(plan, json.dumps({"shard": str(shard), **about, "clips": rows}))
            planned.append((shard, str(plan), end - start))
        return planned
