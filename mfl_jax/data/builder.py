"""Base class of the TFDS builders in `datasets/`: prepares a data set from recordings and their label lists."""

import dataclasses
import errno
import functools
import hashlib
import json
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core import dataset_builder, example_serializer, file_adapters, hashing
from tensorflow_datasets.core.utils import shard_utils

from mfl_jax.data import beam_pipeline, clip_cutting, folds, label_list, source_check, spectrogram_cache
from mfl_jax.data.annotation import Recording
from mfl_jax.data.clip_cutting import Clip
from mfl_jax.data.mel_spectrogram import MelConfig
from mfl_jax.data.spectrogram_cache import Spectrogram
from mfl_jax.errors import InputError, join_first, warn
from mfl_jax.runtime import storage
from mfl_jax.runtime.progress import progress_bar

SPECTROGRAMS = ".spectrograms"
"""Folder of cached spectrograms and plans next to the versions of a data set; removed when preparation completes."""
FORMAT = file_adapters.FileFormat.ARRAY_RECORD
SPLITS = ("development", "evaluation")


@dataclasses.dataclass(eq=False)
class AudioConfig(tfds.core.BuilderConfig):
    """A builder config with the settings that turn recordings into examples.

    Attributes:
      mel: settings of the spectrograms.
      clip_s: length of a clip in seconds; must be a multiple of the hop.
    """

    mel: MelConfig = dataclasses.field(default_factory=MelConfig)
    clip_s: float = 10.0

    @property
    def clip_frames(self) -> int:
        """Frames per clip.

        Raises:
          InputError: the length of a clip is not a multiple of the hop.
        """
        frames = round(self.clip_s / self.mel.hop_s)
        if frames < 1 or abs(frames * self.mel.hop_s - self.clip_s) > 1e-6:
            raise InputError(f"clip_s {self.clip_s:g} is not a multiple of the hop, {self.mel.hop_s:g} s")
        return frames


def make_features(*, clip_frames: int, mel_bins: int, scenes: Sequence[str], events: Sequence[str]) -> tfds.features.FeaturesDict:
    """Returns the TFDS features of an example."""
    return tfds.features.FeaturesDict(
        {
            "log_mel": tfds.features.Tensor(
                shape=(clip_frames, mel_bins), dtype=np.float32, encoding=tfds.features.Encoding.BYTES
            ),
            "events": tfds.features.Tensor(
                shape=(clip_frames, len(events)), dtype=np.bool_, encoding=tfds.features.Encoding.ZLIB
            ),
            "events_annotated": tfds.features.Scalar(np.bool_),
            "scene": tfds.features.ClassLabel(names=scenes),
            "valid_frames": tfds.features.Scalar(np.int32),
            "recording": tfds.features.Text(),
            "clip_start_s": tfds.features.Scalar(np.float64),
            "fold": tfds.features.Scalar(np.int32),
        }
    )


def _list_unannotated(recording: Recording) -> list[str]:
    """Returns the tasks for which a recording is not annotated."""
    return [*(["scene"] if not recording.scene else []), *(["event"] if not recording.events_annotated else [])]


def write_shard(plan: str, advance: Callable[[], object] = lambda: None) -> None:
    """Writes one shard of a data set.

    Args:
      plan: JSON file with the path of the shard, its clips in order, and the settings of the data set.
      advance: called after each clip.

    Raises:
      OSError: a spectrogram is not readable, or the shard is not writable.
    """
    about = json.loads(pathlib.Path(plan).read_bytes())
    mel, clip_frames, events = MelConfig(**about["mel"]), about["clip_frames"], about["events"]
    features = make_features(clip_frames=clip_frames, mel_bins=mel.mel_bins, scenes=about["scenes"], events=events)
    serializer = example_serializer.ExampleSerializer(features.get_serialized_info())

    def build_records() -> Iterator[tuple[str, bytes]]:
        for clip in map(Clip.from_row, about["clips"]):
            example = clip_cutting.build_example(clip, events=events, mel=mel, clip_frames=clip_frames)
            record = serializer.get_tf_example(features.encode_example(example))
            yield clip.key, record.SerializeToString(deterministic=True)
            advance()

    shard, adapter = pathlib.Path(about["shard"]), file_adapters.ADAPTER_FOR_FORMAT[FORMAT]
    with spectrogram_cache.atomic_shared_path(shard) as part:
        try:
            adapter.write_examples(part, build_records())
            written = adapter.num_examples(part)
        except RuntimeError as error:  # ArrayRecord raises it when the disk is full
            raise OSError(errno.EIO, str(error), str(shard)) from None
        if written != len(about["clips"]):
            raise OSError(errno.EIO, f"{written} of {len(about['clips'])} clips were written", str(shard))


@dataclasses.dataclass(frozen=True)
class PlannedShard:
    """A shard to write.

    Attributes:
      file: the shard.
      plan: its plan, for `write_shard`.
      clips: number of clips.
    """

    file: pathlib.Path
    plan: str
    clips: int


class AnnotatedRecordings(dataset_builder.FileReaderBuilder, skip_registration=True):  # type: ignore[call-arg]  # TFDS is untyped
    """Base class of the builders. A subclass defines where recordings and label lists are, and which labels are allowed.

    Preparing has two stages: it computes the spectrogram of each recording and caches it next to the data set, then builds the
    shards from the cache. Threads of this machine or the workers of a Beam pipeline do both, and write the same bytes.

    Examples: `log_mel` float32 [clip_frames, mel_bins], `events` bool [clip_frames, E], `events_annotated`, `scene` (-1 if not
    annotated), `valid_frames`, `recording`, `clip_start_s`, and `fold`: the cross-validation fold (1 to 4) that holds the
    recording out; 0 outside development.
    """

    VERSION = tfds.core.Version("1.0.0")
    pkg_dir_path = None
    SCENES: ClassVar[Sequence[str] | None] = None
    EVENTS: ClassVar[Sequence[str] | None] = None
    RENAMED_EVENTS: ClassVar[Mapping[str, str]] = {}
    NEEDS_MANUAL_DIR = True
    ABOUT = ""

    def __init__(self, *, manual_dir: str | pathlib.Path | None = None, data_dir: str | pathlib.Path, beam: str = "", **settings):
        """Reads the label lists, so that their errors show before any audio is read.

        Args:
          manual_dir: folder with the recordings and `meta/`.
          data_dir: folder of the prepared data sets.
          beam: options of the Beam pipeline that prepares; empty for the threads of this machine.
          **settings: `config` and other arguments of TFDS.
        """
        if self.NEEDS_MANUAL_DIR and not manual_dir:
            raise InputError(f"{self.name} needs manual_dir, the folder of the recordings")
        self.beam = beam
        self.root = storage.expand_path(manual_dir).absolute() if manual_dir else pathlib.Path()
        self._recordings: dict[str, list[Recording]] | None = None
        super().__init__(data_dir=data_dir, file_format="array_record", **settings)

    # Subclasses may override these four.

    @classmethod
    def make_config(cls, name: str, **audio) -> AudioConfig:
        """Returns the builder config with the given name.

        Args:
          name: of the config.
          **audio: `clip_s` and fields of `MelConfig`; must be equal to those of the config.

        Raises:
          InputError: unknown name, or other audio settings.
        """
        configs = {config.name: config for config in cls.BUILDER_CONFIGS}
        if name not in configs:
            raise InputError(f"{cls.name} has no config {name!r}, only {', '.join(configs)}")
        config = configs[name]
        settings = {**dataclasses.asdict(config.mel), "clip_s": config.clip_s}
        if different := {key: value for key, value in audio.items() if value != settings[key]}:
            raise InputError(f"{cls.name}/{name} has fixed audio settings and does not accept {different}; see annotated_audio")
        return config

    def find_label_lists(self) -> dict[str, pathlib.Path]:
        """Returns the label list of each split."""
        return {split: self.root / "meta" / f"meta_{split}.txt" for split in SPLITS}

    def find_fold_lists(self) -> dict[str, pathlib.Path]:
        """Returns the lists, by name, that `assign_folds` reads; they may be missing."""
        return {}

    def assign_folds(self, development: Sequence[Recording], frames: Mapping[str, int]) -> dict[str, int]:
        """Returns the fold of each development recording, by path; see `folds.assign_folds`."""
        return folds.assign_folds(development, frames)

    @property
    def recordings(self) -> dict[str, list[Recording]]:
        """The recordings of each split, checked."""
        if self._recordings is None:
            self._list_sums = source_check.hash_lists(self.root, self.find_label_lists() | self.find_fold_lists())
            self._recordings = {
                split: label_list.read_label_list(
                    file, scenes=self.SCENES, events=self.EVENTS, renamed=self.RENAMED_EVENTS, root=self.root
                )
                for split, file in self.find_label_lists().items()
            }
            development, evaluation = ({recording.path for recording in self._recordings[split]} for split in SPLITS)
            if shared := sorted(development & evaluation):
                raise InputError(f"{len(shared)} recordings are in both development and evaluation: {join_first(shared)}")
        return self._recordings

    def _list_recordings(self) -> list[Recording]:
        """Returns the recordings of all splits."""
        return [recording for split in SPLITS for recording in self.recordings[split]]

    def _collect_labels(self) -> tuple[list[str], list[str]]:
        """Returns the scene and the event labels in the order of their class indices; one of them may be empty."""
        recordings = self._list_recordings()
        scenes = self.SCENES or sorted({recording.scene for recording in recordings} - {""})
        events = self.EVENTS or sorted({event.label for recording in recordings for event in recording.events})
        scenes = scenes if self._check_annotated("scene", "empty, but the other label list names scenes") else ()
        events = events if self._check_annotated("event", "'?' in every row, but the other label list annotates events") else ()
        if not scenes and not events:
            raise InputError(f"{self.find_label_lists()['development']}: the label lists contain neither scenes nor events")
        return list(scenes), list(events)

    def _check_annotated(self, task: str, problem: str) -> bool:
        """Returns whether the label lists annotate a task; raises an InputError if only one of them does."""
        lacking = [split for split in SPLITS if all(task in _list_unannotated(r) for r in self.recordings[split])]
        if len(lacking) == 1:
            raise InputError(f"{self.find_label_lists()[lacking[0]]}: the {task}_label is {problem}")
        return not lacking

    def _info(self) -> tfds.core.DatasetInfo:
        scenes, events = self._collect_labels()
        config = self.builder_config
        metadata = {
            "events": events,
            "mel": dataclasses.asdict(config.mel),
            "recordings": {
                split: [[r.path, r.scene, [[e.onset_s, e.offset_s, e.label] for e in r.events]] for r in self.recordings[split]]
                for split in SPLITS
            },
            **self._describe_groups(),
            **self._describe_unannotated_events(),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.ABOUT,
            features=make_features(clip_frames=config.clip_frames, mel_bins=config.mel.mel_bins, scenes=scenes, events=events),
            metadata=tfds.core.MetadataDict(metadata),
        )

    def _describe_groups(self) -> dict[str, Any]:
        """Returns the groups of each split, by path, as metadata; nothing if the label lists name none."""
        groups = {split: {r.path: r.group for r in self.recordings[split] if r.group} for split in SPLITS}
        return {"groups": groups} if any(groups.values()) else {}

    def _describe_unannotated_events(self) -> dict[str, Any]:
        """Returns metadata that lists, by split, the recordings whose events are not annotated; empty if all are."""
        paths = {split: [r.path for r in self.recordings[split] if not r.events_annotated] for split in SPLITS}
        return {"events_not_annotated": paths} if any(paths.values()) else {}

    def _compute_fingerprint(self, spectrograms: Mapping[str, Spectrogram]) -> str:
        """Hashes the label lists, the settings and all samples. Fully annotated lists without groups hash as before."""
        scenes, events = self._collect_labels()
        config = self.builder_config
        content = {
            "events": events,
            "mel": dataclasses.asdict(config.mel),
            "recordings": {split: [dataclasses.astuple(r)[:3] for r in self.recordings[split]] for split in SPLITS},
            "audio": {split: [spectrograms[r.path].sha256 for r in self.recordings[split]] for split in SPLITS},
            **self._describe_groups(),
            **self._describe_unannotated_events(),
        }
        return hashlib.sha256(json.dumps([scenes, config.clip_frames, content]).encode()).hexdigest()

    def _download_and_prepare(self, dl_manager, download_config):
        del dl_manager  # nothing is downloaded
        clip_cutting.check_recordings(self._list_recordings(), self.root)
        self._warn_of_classes_in_one_split()
        self._warn_of_groups_in_both_splits()
        self._warn_of_unannotated_recordings()
        folder = pathlib.Path(self.data_path.parent, SPECTROGRAMS)
        folder.mkdir(exist_ok=True)
        spectrograms = self._compute_spectrograms(folder)
        self._warn_of_recordings_in_both_splits(spectrograms)
        self.info.metadata["fingerprint"] = self._compute_fingerprint(spectrograms)
        self.info.metadata["sources"] = self._describe_sources(folder.parent, spectrograms)
        shards = {split: self._plan_shards(split, spectrograms, download_config, folder) for split in SPLITS}
        self._write_shards([shard for split in SPLITS for shard in shards[split]], folder)
        self.info.set_splits(tfds.core.SplitDict([self._describe_split(split, shards[split]) for split in SPLITS]))

    def _describe_sources(self, home: pathlib.Path, spectrograms: Mapping[str, Spectrogram]) -> dict[str, Any]:
        """Returns the content of `Dataset.sources`, and stores the modification times of the recordings."""
        if not self.NEEDS_MANUAL_DIR:
            return {}
        modified_ns = {path: spectrogram.modified_ns for path, spectrogram in spectrograms.items()}
        source_check.write_stamps(home, self.info.metadata["fingerprint"], modified_ns)
        recordings = {path: [spectrograms[path].bytes, spectrograms[path].sha256] for path in sorted(spectrograms)}
        return {"lists": self._list_sums, "recordings": recordings}

    def _warn_of_classes_in_one_split(self) -> None:
        """Names the scenes and events that only one split has: they can't be scored, or can't be learnt."""
        scenes = {split: {recording.scene for recording in self.recordings[split]} - {""} for split in SPLITS}
        events = {split: {event.label for r in self.recordings[split] for event in r.events} for split in SPLITS}
        lone = [
            f"{kind} only in {split}: {join_first(sorted(only))}"
            for kind, labels in (("scenes", scenes), ("events", events))
            for split, other in (SPLITS, SPLITS[::-1])
            if (only := labels[split] - labels[other])
        ]
        if lone:
            warn(f"{self.name}/{self.builder_config.name}: {'; '.join(lone)}")

    def _warn_of_recordings_in_both_splits(self, spectrograms: Mapping[str, Spectrogram]) -> None:
        """Names recordings that are to be learnt and scored: equal byte for byte, under different names."""
        development, evaluation = (
            {spectrograms[recording.path].sha256: recording.path for recording in self.recordings[split]} for split in SPLITS
        )
        if shared := [f"{development[s]} and {evaluation[s]}" for s in sorted(development.keys() & evaluation.keys())]:
            warn(
                f"{self.name}/{self.builder_config.name}: {len(shared)} recordings of development are also in evaluation, "
                f"byte for byte: {join_first(shared)}; scores will be too high"
            )

    def _warn_of_groups_in_both_splits(self) -> None:
        """Warns of groups, such as locations, that are in both splits."""
        development, evaluation = ({recording.group for recording in self.recordings[split]} - {""} for split in SPLITS)
        if shared := sorted(development & evaluation):
            warn(
                f"{self.name}/{self.builder_config.name}: {len(shared)} groups have recordings in both development and "
                f"evaluation: {join_first(shared)}; scores will be too high"
            )

    def _warn_of_unannotated_recordings(self) -> None:
        """Counts the recordings without an annotated scene, or without annotated events, where others have them."""
        scenes, events = self._collect_labels()
        for split in SPLITS:
            listed = self.recordings[split]
            for task, classes in (("scene", scenes), ("event", events)):
                paths = [recording.path for recording in listed if classes and task in _list_unannotated(recording)]
                if paths:
                    warn(
                        f"{self.name}/{self.builder_config.name}, {split}: {task}s are not annotated in {len(paths)} of "
                        f"{len(listed)} recordings, which do not count for {task}s: {join_first(paths)}"
                    )

    def _assign_folds(self, spectrograms: Mapping[str, Spectrogram]) -> dict[str, int]:
        """Returns the fold of each development recording, by path; warns if there are too few groups to fill the folds."""
        development = self.recordings["development"]
        assigned = self.assign_folds(development, {r.path: spectrograms[r.path].frames for r in development})
        empty = [str(fold) for fold in range(1, folds.FOLDS + 1) if fold not in assigned.values()]
        if empty and any(recording.group for recording in development):
            warn(
                f"{self.name}/{self.builder_config.name}: {folds.FOLDS} folds need {folds.FOLDS} groups, but development has "
                f"{len(folds.list_groups(development))}; nothing is in fold {', '.join(empty)}, so config.folds and "
                "config.validation of an empty fold will be refused"
            )
        return assigned

    def _compute_spectrograms(self, folder: pathlib.Path) -> dict[str, Spectrogram]:
        """Returns the spectrogram of each recording, by path; computes those that are not cached."""
        recordings = self._list_recordings()
        settings: dict[str, Any] = {"root": self.root, "folder": folder, "mel": self.builder_config.mel}
        spectrograms = spectrogram_cache.find_spectrograms([recording.path for recording in recordings], **settings)
        if spectrograms:
            warn(
                f"{folder}: reusing {len(spectrograms)} of {len(recordings)} spectrograms of an interrupted preparation, because "
                "settings and recordings (size and modification time) are unchanged"
            )
        missing = [recording for recording in recordings if recording.path not in spectrograms]
        if not missing:
            return spectrograms
        if not self.beam:
            description = f"{self.name}/{self.builder_config.name}, spectrograms"
            computed = spectrogram_cache.cache_spectrograms(missing, description=description, **settings)
            return spectrograms | {recording.path: spectrogram for recording, spectrogram in computed}
        paths = [recording.path for recording in missing]
        compute = functools.partial(spectrogram_cache.cache_spectrogram, **settings)
        beam_pipeline.run_for_each(paths, compute, self.beam, file=folder / "recordings.json")
        spectrograms |= spectrogram_cache.find_spectrograms(paths, **settings)
        if lost := [path for path in paths if path not in spectrograms]:
            raise InputError(
                f"{folder}: {len(lost)} spectrograms computed by the workers of the pipeline are missing, the first: {lost[0]}; "
                "--config.data_dir and the recordings must have the same path on all workers"
            )
        return spectrograms

    def _plan_clips(self, split: str, spectrograms: Mapping[str, Spectrogram]) -> list[Clip]:
        """Plans the clips of a split; prints a warning for each kind of anomaly."""
        config = self.builder_config
        assigned = self._assign_folds(spectrograms) if split == "development" else {}
        anomalies = clip_cutting.Anomalies()
        clips: list[Clip] = []
        for recording in self.recordings[split]:
            clips += clip_cutting.plan_clips(
                recording,
                spectrograms[recording.path],
                mel=config.mel,
                clip_frames=config.clip_frames,
                anomalies=anomalies,
                fold=assigned.get(recording.path, 0),
            )
        for line in anomalies.lines():
            warn(f"{self.name}, {split}: {line}")
        return clips

    def _plan_shards(
        self, split: str, spectrograms: Mapping[str, Spectrogram], download_config: Any, folder: pathlib.Path
    ) -> list[PlannedShard]:
        """Writes the plan of each shard of a split, in the order and number of shards that TFDS uses by default."""
        config, (scenes, events) = self.builder_config, self._collect_labels()
        mel, clip_frames = config.mel, config.clip_frames
        hasher = hashing.Hasher(split)
        clips = sorted(self._plan_clips(split, spectrograms), key=lambda clip: hasher.hash_key(clip.key))
        size = len(clips) * clip_frames * mel.mel_bins * np.dtype(np.float32).itemsize
        count = download_config.get_shard_config().get_number_shards(size, len(clips))
        ends = shard_utils.get_shard_boundaries(len(clips), count)
        settings = {"mel": dataclasses.asdict(mel), "clip_frames": clip_frames, "scenes": scenes, "events": events}
        shards = []
        for index, (start, end) in enumerate(zip([0, *ends], ends, strict=False)):
            file = pathlib.Path(self._get_filename_template(split).sharded_filepath(shard_index=index, num_shards=count))
            plan = folder / f"{file.name}.json"
            rows = [clip.to_row() for clip in clips[start:end]]
            storage.atomic_write(plan, json.dumps({"shard": str(file), **settings, "clips": rows}))
            shards.append(PlannedShard(file, str(plan), end - start))
        return shards

    def _write_shards(self, shards: Sequence[PlannedShard], folder: pathlib.Path) -> None:
        """Writes the planned shards by the pipeline, or in this process."""
        if self.beam:
            plans = [shard.plan for shard in shards]
            beam_pipeline.run_for_each(plans, write_shard, self.beam, file=folder / "shards.json")
            return
        with progress_bar("clips,") as bar:
            description = f"{self.name}/{self.builder_config.name}, clips"
            task = bar.add_task(description, total=sum(shard.clips for shard in shards))
            for shard in shards:
                write_shard(shard.plan, functools.partial(bar.advance, task))

    def _describe_split(self, split: str, shards: Sequence[PlannedShard]) -> tfds.core.SplitInfo:
        size = sum(shard.file.stat().st_size for shard in shards)
        return tfds.core.SplitInfo(split, [shard.clips for shard in shards], size, self._get_filename_template(split))
