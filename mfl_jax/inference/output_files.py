"""The files of predictions: one folder per format, one file per recording."""

import collections
import pathlib
from collections.abc import Callable, Mapping, Sequence

from mfl_jax.data.annotation import Event
from mfl_jax.data.mel_spectrogram import MelConfig
from mfl_jax.errors import InputError
from mfl_jax.inference.audio_source import AudioSource
from mfl_jax.inference.postprocessing import Rule
from mfl_jax.inference.prediction import Prediction
from mfl_jax.inference.writers import FORMATS

PAGES = "pages", ".html"
"""Folder and suffix of the pages."""


class OutputFiles:
    """Writes the files of each prediction below a folder.

    Attributes:
      folder: output folder.
      audio_files: name of a recording -> its file.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        sources: Sequence[AudioSource],
        mel: MelConfig,
        *,
        formats: Sequence[str],
        plot: bool = False,
        page: bool = False,
        rules: Mapping[str, Rule] | None = None,
    ):
        """Creates the folder.

        Args:
          folder: output folder.
          sources: all recordings, since file names must differ between them.
          mel: settings of the spectrograms of the model.
          formats: formats to write, keys of `writers.FORMATS`.
          plot: whether to draw a picture of each recording, into `plots`.
          page: whether to write a page for each recording, into `pages`.
          rules: rule of each event that detects the events, shown in pictures and pages; `Rule()` for events without one.

        Raises:
          InputError: the folder can't be created.
        """
        self.folder = folder
        self._mel = mel
        self._formats = list(dict.fromkeys(formats))
        self.audio_files = {source.name: source.file for source in sources}
        self._stems = _choose_stems(list(self.audio_files))
        self._rules = dict(rules or {})
        self._drawings = _import_drawings(plot, page)
        _create_folder(folder)

    def write(self, prediction: Prediction, reference: Sequence[Event] | None) -> None:
        """Writes all files of a prediction; `reference` holds the true events, if known.

        Raises:
          OSError: a file can't be written.
          InputError: a folder can't be created, or the recording can no longer be read.
        """
        name = prediction.recording
        for kind in self._formats:
            write, suffix = FORMATS[kind]
            write(prediction, self._prepare_path(kind, name, suffix))
        for kind, suffix, draw in self._drawings:
            out_file = self._prepare_path(kind, name, suffix)
            draw(prediction, self.audio_files[name], self._mel, out_file, reference=reference, rules=self._rules)

    def path(self, kind: str, name: str, suffix: str) -> pathlib.PurePosixPath:
        """Returns the path of a file of a recording, relative to `folder`."""
        stem = self._stems[name]
        return pathlib.PurePosixPath(kind, stem.with_name(stem.name + suffix))

    def list_paths(self, name: str) -> list[pathlib.PurePosixPath]:
        """Returns the paths of all files of a recording, relative to `folder`."""
        kinds = [(kind, FORMATS[kind][1]) for kind in self._formats] + [drawing[:2] for drawing in self._drawings]
        return [self.path(kind, name, suffix) for kind, suffix in kinds]

    def _prepare_path(self, kind: str, name: str, suffix: str) -> pathlib.Path:
        file = self.folder / self.path(kind, name, suffix)
        _create_folder(file.parent)
        return file


def _import_drawings(plot: bool, page: bool) -> list[tuple[str, str, Callable[..., None]]]:
    """Returns folder, suffix and function of each requested drawing. Imports matplotlib only if needed."""
    drawings: list[tuple[str, str, Callable[..., None]]] = []
    if plot:
        from mfl_jax.inference import picture

        drawings.append(("plots", ".png", picture.write_picture))
    if page:
        from mfl_jax.inference.page import write_page

        drawings.append((*PAGES, write_page))
    return drawings


def _choose_stems(names: Sequence[str]) -> dict[str, pathlib.PurePosixPath]:
    """Chooses the path of each recording's files, without suffix: its name, keeping the audio suffix only if needed to differ."""
    stems = {name: pathlib.PurePosixPath(name).with_suffix("") for name in names}
    while shared := {stem for stem, count in collections.Counter(stems.values()).items() if count > 1}:
        stems = {name: pathlib.PurePosixPath(name) if stem in shared else stem for name, stem in stems.items()}
    return stems


def _create_folder(path: pathlib.Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{path}: can't create this folder ({error.strerror})") from None
