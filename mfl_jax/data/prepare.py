"""Prepares a data set by its builder under `datasets/`."""

import contextlib
import fcntl
import importlib.util
import io
import pathlib
import shutil
import sys
from types import ModuleType

import tensorflow_datasets as tfds

from mfl_jax.data import beam_pipeline
from mfl_jax.data.builder import SPECTROGRAMS
from mfl_jax.data.mel_spectrogram import MelConfig
from mfl_jax.data.prepared_dataset import Dataset, open_dataset
from mfl_jax.errors import InputError, warn
from mfl_jax.runtime import storage

BUILDERS = pathlib.Path(__file__).absolute().parent.parent.parent / "datasets"
"""The builders of the checkout; they are not part of the installed package."""


def split_name(dataset: str) -> tuple[str, str | None]:
    """Splits `builder/config`, or `builder` alone."""
    builder, _, config = dataset.partition("/")
    return builder, config or None


def load_builder(name: str) -> ModuleType:
    """Loads `datasets/<name>/` of the checkout as a package under a private name, so that no other `datasets` is meant.

    Returns:
      A module with the class `Builder`.

    Raises:
      InputError: there is no such builder.
    """
    file = BUILDERS / name / "__init__.py"
    known = sorted(path.parent.name for path in BUILDERS.glob("*/__init__.py"))
    if name not in known:
        raise InputError(f"there is no data set builder {name!r} in {BUILDERS}, but {', '.join(known) or 'none at all'}")
    module_name = f"_mfl_jax_datasets_{name}"
    if module_name not in sys.modules:
        spec = importlib.util.spec_from_file_location(module_name, file, submodule_search_locations=[str(file.parent)])
        module = importlib.util.module_from_spec(spec)
        sys.modules[module_name] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[module_name]
            raise
    return sys.modules[module_name]


def full_name(dataset: str) -> str:
    """Completes `builder` to `builder/config` by the builder's first config."""
    name, config = split_name(dataset)
    if config is None:
        config = load_builder(name).Builder.BUILDER_CONFIGS[0].name
    return f"{name}/{config}"


def needs_manual_dir(dataset: str) -> bool:
    """Whether the recordings come from the user."""
    return load_builder(split_name(dataset)[0]).Builder.NEEDS_MANUAL_DIR


def prepare(
    dataset: str, *, data_dir: str | pathlib.Path, manual_dir: str | pathlib.Path | None = None, beam: str = "", **audio
) -> Dataset:
    """Prepares a data set, or finds it prepared.

    What is half made lies beside the place of the whole: shards in a folder `incomplete...`, which is renamed at the end, and
    spectrograms in `.spectrograms`, with which a preparation that was broken off goes on, and which is removed at the end.

    Args:
      dataset: `builder/config`, or `builder` for its first config.
      data_dir: where prepared data sets lie.
      manual_dir: the folder of the recordings and label lists, for builders that need one.
      beam: options of the Apache Beam pipeline that does the work; empty for the threads of this machine.
      **audio: `clip_s` and the fields of `MelConfig`, for builders that leave them open.

    Raises:
      InputError: no such builder or config, something is wrong with the recordings, the label lists or the pipeline, or the
        data set can't be written.
    """
    dataset = full_name(dataset)
    name, config = split_name(dataset)
    if found := _opened(dataset, data_dir):
        return found
    if beam:
        beam_pipeline.check(beam)
    place = pathlib.Path(data_dir).absolute()  # workers of a pipeline start in folders of their own
    cls = load_builder(name).Builder
    try:
        builder = cls(config=cls.config_named(config, **audio), data_dir=place, manual_dir=manual_dir, beam=beam)
        home = place / dataset
        home.mkdir(parents=True, exist_ok=True)
        with open(home / ".lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # a second preparation waits, and finds the work of the first
            if found := _opened(dataset, data_dir):
                return found
            for leftover in home.glob("incomplete.*"):
                warn(f"{leftover}: left by a preparation that was broken off; removed")
                shutil.rmtree(leftover)
            tfds.disable_progress_bar()
            # TFDS says on the standard output what the progress bar says better.
            with contextlib.redirect_stdout(io.StringIO()):
                builder.download_and_prepare()
            return _opened(dataset, data_dir)
    except OSError as error:
        what = ": ".join(str(part) for part in (error.filename, error.strerror or error) if part)
        raise InputError(f"{dataset} can't be prepared in {data_dir}: {what}; make room, or name another data_dir") from error


def _opened(dataset: str, data_dir: str | pathlib.Path) -> Dataset | None:
    """Opens a prepared data set, and removes what it was made of, now that it is whole."""
    if found := open_dataset(dataset, data_dir):
        shutil.rmtree(found.directory.parent / SPECTROGRAMS, ignore_errors=True)
    return found


def open_or_prepare(config) -> Dataset:
    """The data set that a config names, prepared if it is not and can be.

    Raises:
      InputError: it is not prepared and needs recordings (says the commands that help), or was prepared with other settings.
    """
    dataset = config.dataset if "/" in config.dataset else full_name(config.dataset)
    data_dir = storage.expand_path(config.data_dir)
    found = _opened(dataset, data_dir)
    if found is None and needs_manual_dir(dataset) and not config.manual_dir:
        command = "experiment" if "systems" in config else "main"
        run = f"python -m mfl_jax.{command} --config=configs/{config.name.removesuffix('_quick')}.py"
        raise InputError(
            f"{dataset} is not prepared in {config.data_dir}. Prepare it from its recordings and label lists in DIR:\n"
            f"  python -m mfl_jax.main --config=configs/proposed.py --config.dataset={dataset} --config.manual_dir=DIR "
            f"--mode=prepare\n"
            f"or run on synthetic soundscapes, which need no download:\n"
            f"  {run} --config.dataset=soundscapes/full"
        )
    audio = config.audio.to_dict() if split_name(dataset)[0] == "annotated_audio" else {}
    if found is None:
        return prepare(dataset, data_dir=data_dir, manual_dir=config.manual_dir or None, beam=config.get("beam", ""), **audio)
    if audio:
        now = MelConfig(**{key: value for key, value in audio.items() if key != "clip_s"})
        if now != found.mel or round(audio["clip_s"] / now.hop_s) != found.clip_frames:
            raise InputError(
                f"{found.directory} was prepared with other settings than config.audio has ({found.mel}, clips of "
                f"{found.clip_frames} frames); name another data set, annotated_audio/NAME, or delete that folder"
            )
    return found
