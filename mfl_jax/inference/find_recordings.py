"""Finds the recordings that a user names by files, folders, lists of files or the standard input."""

import csv
import os
import pathlib
import shutil
import sys
from collections.abc import Iterator, Sequence

from mfl_jax.data import event_rows
from mfl_jax.errors import InputError
from mfl_jax.inference.audio_source import AudioSource
from mfl_jax.runtime import folder_walk, storage

READABLE = (".wav", ".wave", ".w64", ".rf64", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc", ".caf", ".au")
AUDIO_SUFFIXES = frozenset((*READABLE, ".m4a", ".aac", ".wma"))
"""Files in a folder with these suffixes are recordings. Unreadable formats are included, so that they are reported."""
LIST_SUFFIXES = frozenset({".txt", ".lst", ".list", ".csv", ".tsv"})
"""Arguments with these suffixes are lists of recordings."""
LIST_HEADERS = ("path", "filename", "file")


def find_recordings(arguments: Sequence[str], spool: pathlib.Path) -> list[AudioSource]:
    """Finds the recordings that arguments name, each once. Does not check whether they can be read.

    If files in several folders have the same name, their folders become part of their names.

    Args:
      arguments: each is one of
        - a file;
        - a folder, for all recordings in it at any depth, except hidden ones. Links to folders are followed. A folder that
          can't be listed is returned like a recording, to be refused later;
        - a list: a text file with one path per row, relative to the folder of the list or to the working directory. The path is
          the first field, up to a tab or, in a .csv file, a comma. A header `path`, `filename` or `file` is skipped;
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
    path = storage.expand_path(argument)
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
        return _read_list(path)
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


def _read_list(file: pathlib.Path) -> list[AudioSource]:
    rows = event_rows.read_text(file, "list of recordings").splitlines()
    if file.suffix.lower() == ".csv":
        fields = [row[0] if row else "" for row in csv.reader(rows)]
    else:
        fields = [row.split("\t")[0] for row in rows]
    sources: list[AudioSource] = []
    for number, field in enumerate(map(str.strip, fields), 1):
        if not field or (not sources and field.lower() in LIST_HEADERS):
            continue
        relative_to_list = file.parent / field
        try:
            in_working_directory = not relative_to_list.exists() and pathlib.Path(field).exists()
        except (OSError, ValueError):
            raise InputError(f"{file}, row {number}: {field[:60]!r} ... is not a file name; expected one path per row") from None
        written = pathlib.PurePath(field)
        name = pathlib.PurePath(written.name) if written.is_absolute() or ".." in written.parts else written
        sources.append(AudioSource(_printable_name(name), pathlib.Path(field) if in_working_directory else relative_to_list))
    if not sources:
        raise InputError(f"{file}: the list names no recording")
    return sources
