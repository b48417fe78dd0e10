"""Which recordings are meant: files, folders, lists of files, the standard input."""

import csv
import os
import pathlib
import shutil
import sys
from collections.abc import Sequence

import soundfile

from mfl_jax.data import event_rows
from mfl_jax.errors import InputError
from mfl_jax.inference.streaming import Source
from mfl_jax.runtime import storage

READABLE = (".wav", ".wave", ".w64", ".rf64", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc", ".caf", ".au")
SUFFIXES = frozenset((*READABLE, ".m4a", ".aac", ".wma"))  # the last ones can't be read, and are named rather than passed over
"""Of the files that are taken for recordings in a folder."""
LISTS = frozenset({".txt", ".lst", ".list", ".csv", ".tsv"})
"""Of the files that are taken for a list of recordings."""


def find_recordings(arguments: Sequence[str], spool: pathlib.Path) -> list[Source]:
    """Finds the recordings that arguments name, each once.

    Files of one name in several folders are told apart by their folders. Whether a recording can be read is not asked yet.

    Args:
      arguments: files; folders, of which all recordings are meant, at any depth, but for hidden ones; lists, text files with a
        path a row (relative to the list's folder or to the working directory; the first field of a row, before a tab or, in a
        .csv file, a comma; a header `path`, `filename` or `file` is passed over); `-` for the standard input.
      spool: a folder for what comes from the standard input.

    Raises:
      InputError: an argument is empty, a folder or a list without recordings, or no text that can be read; or two recordings
        have the same name nevertheless.
    """
    found: dict[pathlib.Path, Source] = {}
    for argument in arguments:
        for source in _of(argument, spool):
            found.setdefault(pathlib.Path(os.path.realpath(source.file)), source)
    by_name: dict[str, list[pathlib.Path]] = {}
    for file, source in found.items():
        by_name.setdefault(source.name, []).append(file)
    for files in by_name.values():
        if len(files) > 1:
            above = os.path.commonpath([file.parent for file in files])
            found |= {file: Source(_name(file.relative_to(above)), found[file].file) for file in files}
    names: dict[str, Source] = {}
    for source in found.values():
        if (other := names.setdefault(source.name, source)) is not source:
            raise InputError(f"{other.file} and {source.file} have the same name {source.name}; give the folder above both")
    return list(found.values())


def _name(path: pathlib.PurePath) -> str:
    """A path as a name that can be written anywhere, whatever bytes the system has for it."""
    return path.as_posix().encode(errors="replace").decode()


def _of(argument: str, spool: pathlib.Path) -> list[Source]:
    if not argument:
        raise InputError("an argument is empty; it would mean the whole working directory (. means it too)")
    if argument == "-":
        return [Source("stdin", _from_stdin(spool / "stdin"))]
    path = storage.expand_path(argument)
    try:
        is_folder, is_file = path.is_dir(), path.is_file()
    except (OSError, ValueError) as error:
        raise InputError(f"{_name(path)}: no name of a file ({getattr(error, 'strerror', None) or error})") from None
    if is_folder:
        files = sorted(file for file in _below(path) if file.suffix.lower() in SUFFIXES)
        if not files:
            raise InputError(f"{_name(path)}: there is no recording in this folder ({', '.join(sorted(SUFFIXES))})")
        return [Source(_name(file.relative_to(path)), file) for file in files]
    if path.suffix.lower() in LISTS and is_file:
        return _listed(path)
    return [Source(_name(pathlib.PurePath(path.name)), path)]


def _from_stdin(copy: pathlib.Path) -> pathlib.Path:
    # What decodes it may have to seek in it.
    if not copy.exists():  # named twice, it is read once
        if sys.stdin is None:
            raise InputError("-: the standard input is closed")
        with copy.open("wb") as out:
            shutil.copyfileobj(sys.stdin.buffer, out)
    return copy


def _below(folder):
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (pathlib.Path(parent, name) for name in names if not name.startswith("."))


def _listed(file: pathlib.Path) -> list[Source]:
    rows = event_rows.read_text(file, "list of recordings").splitlines()
    if file.suffix.lower() == ".csv":
        names = [row[0] if row else "" for row in csv.reader(rows)]
    else:
        names = [row.split("\t")[0] for row in rows]
    found = []
    for row, name in enumerate(map(str.strip, names), 1):
        if not name or (not found and name.lower() in ("path", "filename", "file")):
            continue
        beside, plain = file.parent / name, pathlib.PurePath(name)
        try:
            path = beside if beside.exists() or not pathlib.Path(name).exists() else pathlib.Path(name)
        except (OSError, ValueError):
            raise InputError(f"{file}, row {row}: {name[:60]!r} ... is no name of a recording; a list has a path a row") from None
        found.append(Source(_name(pathlib.PurePath(path.name) if plain.is_absolute() or ".." in plain.parts else plain), path))
    if not found:
        raise InputError(f"{file}: the list names no recording")
    return found


def read_duration_s(source: Source) -> float | None:
    """Length of a recording by its header, for a progress bar; None where it does not say, or is broken."""
    try:
        info = soundfile.info(source.file)
    except (soundfile.SoundFileError, OSError, ValueError):
        return None
    return info.frames / info.samplerate if 0 < info.frames < 2**62 and info.samplerate > 0 else None
