"""Finds the recordings that a user names by files, folders, lists of files or the standard input."""

import os
import pathlib
import shutil
import sys
from collections.abc import Iterator, Sequence

from mfl_jax.data import spelling
from mfl_jax.data.match_recordings import AUDIO_SUFFIXES
from mfl_jax.errors import InputError
from mfl_jax.inference.audio_source import AudioSource
from mfl_jax.inference.recording_list import read_recording_list
from mfl_jax.runtime import folder_walk, storage

LIST_SUFFIXES = frozenset({".txt", ".lst", ".list", ".csv", ".tsv"})
"""Arguments with these suffixes are lists of recordings."""


def find_recordings(arguments: Sequence[str], spool: pathlib.Path) -> list[AudioSource]:
    """Finds the recordings that arguments name, each once. Does not check whether they can be read.

    If files in several folders have the same name, their folders become part of their names.

    Args:
      arguments: each is one of
        - a file;
        - a folder, for all recordings in it at any depth, except hidden ones. Links to folders are followed. A folder that
          can't be listed is returned like a recording, to be refused later;
        - a list of recordings, see `read_recording_list`;
        - `-`, for the standard input.
      spool: folder for a copy of the standard input.

    Raises:
      InputError: an argument is empty, names a folder or list without recordings, or is a list that can't be read; or two
        recordings have the same name even with their folders.
    """
    by_path: dict[pathlib.Path, AudioSource] = {}
    for argument in arguments:
        for source in _resolve_argument(argument, spool):
            by_path.setdefault(pathlib.Path(os.path.realpath(source.file)), source)
    by_path = _add_folders_to_equal_names(by_path)
    by_name: dict[str, AudioSource] = {}
    for source in by_path.values():
        if (other := by_name.setdefault(source.name, source)) is not source:
            raise InputError(f"{other.file} and {source.file} have the same name {source.name}; give the folder above both")
    return list(by_path.values())


def _add_folders_to_equal_names(by_path: dict[pathlib.Path, AudioSource]) -> dict[pathlib.Path, AudioSource]:
    paths_by_name: dict[str, list[pathlib.Path]] = {}
    for path, source in by_path.items():
        paths_by_name.setdefault(source.name, []).append(path)
    renamed = dict(by_path)
    for paths in paths_by_name.values():
        if len(paths) > 1:
            common = os.path.commonpath([path.parent for path in paths])
            renamed |= {path: AudioSource(_printable_name(path.relative_to(common)), by_path[path].file) for path in paths}
    return renamed


def _printable_name(path: pathlib.PurePath) -> str:
    """Replaces the bytes of a path that are not valid text, so that the name can be written anywhere."""
    return path.as_posix().encode(errors="replace").decode()


def _resolve_argument(argument: str, spool: pathlib.Path) -> list[AudioSource]:
    if not argument:
        raise InputError("empty argument; use . for the working directory")
    if argument == "-":
        return [AudioSource("stdin", _copy_stdin(spool / "stdin"))]
    path = spelling.find_file(pathlib.Path(), str(storage.expand_path(argument)))
    try:
        is_folder, is_file = path.is_dir(), path.is_file()
    except (OSError, ValueError) as error:
        raise InputError(f"{_printable_name(path)}: invalid file name ({getattr(error, 'strerror', None) or error})") from None
    if is_folder:
        files = sorted(_list_recordings(path))
        if not files:
            raise InputError(f"{_printable_name(path)}: no recording in this folder ({', '.join(sorted(AUDIO_SUFFIXES))})")
        return [AudioSource(_printable_name(file.relative_to(path if file != path else path.parent)), file) for file in files]
    if path.suffix.lower() in LIST_SUFFIXES and is_file:
        return read_recording_list(path)
    return [AudioSource(_printable_name(pathlib.PurePath(path.name)), path)]


def _copy_stdin(copy: pathlib.Path) -> pathlib.Path:
    """Copies the standard input to a file, since decoders may need to seek."""
    if not copy.exists():  # `-` may be given twice
        if sys.stdin is None:
            raise InputError("-: the standard input is closed")
        with copy.open("wb") as out:
            shutil.copyfileobj(sys.stdin.buffer, out)
    return copy


def _list_recordings(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields the recordings in a folder, and folders that can't be listed, which are then refused as recordings are."""
    for path, is_file in folder_walk.walk_folder(folder):
        if path.suffix.lower() in AUDIO_SUFFIXES or not is_file:
            yield path
