"""Prepares data sets with the builders of `mfl_jax.builders`."""

import contextlib
import fcntl
import importlib
import io
import pathlib
import pkgutil
import shutil
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType

import tensorflow_datasets as tfds
from ml_collections import ConfigDict

from mfl_jax import builders
from mfl_jax.data import beam_pipeline, source_check
from mfl_jax.data.builder import SPECTROGRAMS, AnnotatedRecordings, AudioConfig
from mfl_jax.data.mel_spectrogram import MelConfig
from mfl_jax.data.prepared_dataset import Dataset, find_directory, open_dataset
from mfl_jax.errors import InputError, warn
from mfl_jax.runtime import storage


def split_name(dataset: str) -> tuple[str, str | None]:
    """Splits `builder/config` into both names; the config of a bare `builder` is None.

    Raises:
      InputError: the name is neither, or could name a folder elsewhere.
    """
    builder, *configs = dataset.split("/")
    invalid = len(configs) > 1 or any(not part or part.startswith(".") or not part.isprintable() for part in (builder, *configs))
    if invalid or "\\" in dataset:
        raise InputError(
            f"config.dataset is {dataset!r}; must be BUILDER/NAME, e.g. annotated_audio/mine, where NAME has no slash and no "
            "dot at its start"
        )
    return builder, configs[0] if configs else None


def load_builder(name: str) -> ModuleType:
    """Imports a builder of `mfl_jax.builders`.

    Returns:
      A module with the class `Builder`.

    Raises:
      InputError: unknown builder.
    """
    known = sorted(module.name for module in pkgutil.iter_modules(builders.__path__))
    if name not in known:
        raise InputError(f"no data set builder {name!r} in {builders.__path__[0]}, only {', '.join(known) or 'none at all'}")
    return importlib.import_module(f"{builders.__name__}.{name}")


def complete_name(dataset: str) -> str:
    """Completes `builder` to `builder/config` with the first config of the builder.

    Raises:
      InputError: not a name of a data set, or the builder leaves the choice of a config to the user.
    """
    name, config = split_name(dataset)
    if config is None:
        configs = load_builder(name).Builder.BUILDER_CONFIGS
        if not configs:
            raise InputError(f"config.dataset is {dataset!r}; add a name of your choice, e.g. {name}/mine")
        config = configs[0].name
    return f"{name}/{config}"


def needs_manual_dir(dataset: str) -> bool:
    """Returns whether the user must provide the recordings."""
    return load_builder(split_name(dataset)[0]).Builder.NEEDS_MANUAL_DIR


def prepare(
    dataset: str,
    *,
    data_dir: str | pathlib.Path,
    manual_dir: str | pathlib.Path | None = None,
    beam: str = "",
    tasks: Sequence[str] = (),
    report: Callable[[str], object] | None = None,
    **audio,
) -> Dataset:
    """Prepares a data set unless it is prepared already, and opens it.

    Until the data set is complete, its shards are in a folder `incomplete...`, which is renamed at the end, and the
    spectrograms in `.spectrograms`, which an interrupted preparation reuses and which is removed at the end.

    Args:
      dataset: `builder/config`, or `builder` for its first config.
      data_dir: folder of the prepared data sets.
      manual_dir: folder of the recordings and label lists, for builders that need one. A prepared data set is compared with it.
      beam: options of the Apache Beam pipeline that prepares; empty for the threads of this machine.
      tasks: to train; each needs a class.
      report: called with one line that says whether the data set was reused, and why.
      **audio: `clip_s` and fields of `MelConfig`, for builders that leave them open.

    Raises:
      InputError: unknown builder or config; an error in the recordings, the label lists or the pipeline; the data set was
        prepared from other data, has no class for a task, or cannot be written.
    """
    dataset = complete_name(dataset)
    name, config = split_name(dataset)
    if prepared := _open_prepared(dataset, data_dir):
        reason = _check_prepared(prepared, manual_dir, tasks, audio)
        if report:
            report(f"{prepared.directory}: reused, {reason}")
        return prepared
    if beam:
        beam_pipeline.check_options(beam)
    absolute_data_dir = pathlib.Path(data_dir).absolute()  # workers of a pipeline have other working directories
    cls = load_builder(name).Builder
    try:
        builder = cls(config=cls.make_config(config, **audio), data_dir=absolute_data_dir, manual_dir=manual_dir, beam=beam)
        features, metadata = builder.info.features, builder.info.metadata
        _check_tasks(tasks, features["scene"].names, metadata["events"], f"the label lists in {manual_dir}")
        with _lock(absolute_data_dir / dataset):
            if prepared := _open_prepared(dataset, data_dir):  # by another host, perhaps from another copy of the recordings
                reason = _check_prepared(prepared, manual_dir, tasks, audio)
                if report:
                    report(f"{prepared.directory}: reused, prepared meanwhile by another process; {reason}")
                return prepared
            prepared = _build(builder, dataset, data_dir)
            if report:
                report(f"{prepared.directory}: prepared, {' and '.join(f'{n} clips of {s}' for s, n in prepared.clips.items())}")
            return prepared
    except OSError as error:
        reason = ": ".join(str(part) for part in (error.filename, error.strerror or error) if part)
        raise InputError(
            f"{dataset} can't be prepared in {data_dir}: {reason}; free space, or choose another data_dir"
        ) from error


@contextlib.contextmanager
def _lock(folder: pathlib.Path) -> Iterator[None]:
    """Creates the folder of a data set and locks it: a second preparation waits for the first one and finds its result."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _build(builder: AnnotatedRecordings, dataset: str, data_dir: str | pathlib.Path) -> Dataset:
    """Runs a builder and opens the result."""
    for leftover in pathlib.Path(data_dir, dataset).glob("incomplete.*"):
        warn(f"{leftover}: removed the remains of an interrupted preparation")
        shutil.rmtree(leftover)
    tfds.disable_progress_bar()
    # TFDS prints to standard output; our progress bar is more useful.
    with contextlib.redirect_stdout(io.StringIO()):
        builder.download_and_prepare()
    prepared = _open_prepared(dataset, data_dir)
    assert prepared is not None
    return prepared


def _open_prepared(dataset: str, data_dir: str | pathlib.Path) -> Dataset | None:
    """Opens a prepared data set and removes its cached spectrograms, which are no longer needed; None if not prepared."""
    prepared = open_dataset(dataset, data_dir)
    if prepared is not None:
        shutil.rmtree(prepared.directory.parent / SPECTROGRAMS, ignore_errors=True)
    return prepared


def prepare_from_config(config: ConfigDict, *, report: Callable[[str], object] | None = None) -> Dataset:
    """Opens the data set of a training config; prepares it first if necessary; `report` as for `prepare`.

    Raises:
      InputError: the data set needs recordings (names the commands that help), was prepared with other settings, or see
        `prepare`.
    """
    dataset = config.dataset if split_name(config.dataset)[1] else complete_name(config.dataset)
    data_dir = storage.expand_path(config.data_dir)
    audio = config.audio.to_dict() if split_name(dataset)[0] == "annotated_audio" else {}
    if not config.manual_dir and find_directory(dataset, data_dir) is None and needs_manual_dir(dataset):
        raise InputError(_explain_missing_data(dataset, config))
    return prepare(
        dataset,
        data_dir=data_dir, manual_dir=config.manual_dir or None, beam=config.get("beam", ""), tasks=_list_tasks(config),
        report=report, **audio,
    )  # fmt: skip


def _list_tasks(config: ConfigDict) -> list[str]:
    """Returns the tasks of a config, or of all systems of an experiment."""
    systems = config.systems.values() if "systems" in config else [{}]
    return [task for task in ("scene", "event") if any(task in system.get("tasks", config.tasks) for system in systems)]


def _explain_missing_data(dataset: str, config: ConfigDict) -> str:
    command = "experiment" if "systems" in config else "main"
    run = f"python -m mfl_jax.{command} --config={config.name.removesuffix('_quick')}"
    return (
        f"{dataset} is not prepared in {config.data_dir}. Prepare it from its recordings and label lists in DIR:\n"
        f"  python -m mfl_jax.main --config=proposed --config.dataset={dataset} --config.manual_dir=DIR "
        f"--mode=prepare\n"
        f"or run on synthetic soundscapes, which need no download:\n"
        f"  {run} --config.dataset=soundscapes/full"
    )


def _check_prepared(prepared: Dataset, manual_dir: str | pathlib.Path | None, tasks: Sequence[str], audio: dict) -> str:
    """Checks that a prepared data set is the one that was asked for, see `prepare`; returns why it can be used."""
    if audio:
        _check_audio_settings(prepared, audio)
    _check_tasks(tasks, prepared.scenes, prepared.events, str(prepared.directory))
    if not manual_dir:
        return "as it is: without config.manual_dir there is nothing to compare it with"
    return source_check.check_sources(prepared, storage.expand_path(manual_dir).absolute())


def _check_tasks(tasks: Sequence[str], scenes: Sequence[str], events: Sequence[str], place: str) -> None:
    """Raises an InputError if a task has no class."""
    for task, classes, config in (("scene", scenes, "cnn_bigru_sed"), ("event", events, "cnn_asc")):
        if task in tasks and not classes:
            raise InputError(f"{place}: no {task}s, but config.tasks has {task!r}; --config={config} trains without {task}s")


def _check_audio_settings(prepared: Dataset, audio: dict) -> None:
    mel = MelConfig(**{key: value for key, value in audio.items() if key != "clip_s"})
    if mel != prepared.mel or round(audio.get("clip_s", AudioConfig.clip_s) / mel.hop_s) != prepared.clip_frames:
        raise InputError(
            f"{prepared.directory} was prepared with other settings than config.audio ({prepared.mel}, clips of "
            f"{prepared.clip_frames} frames); choose another name, annotated_audio/NAME, or delete that folder"
        )
