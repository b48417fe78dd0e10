"""Which recordings are meant: files, folders, lists of files, the standard input."""

import os
import pathlib
import shutil
import sys
from collections.abc import Sequence

import soundfile

from mfl_jax.errors import InputError
from mfl_jax.listening import Source

SUFFIXES = frozenset(
    {".wav", ".wave", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc", ".w64", ".rf64", ".caf", ".au"}
)
"""Of the files that are taken for recordings in a folder."""
LISTS = frozenset({".txt", ".lst", ".list", ".csv", ".tsv"})
"""Of the files that are taken for a list of recordings."""


def find(arguments: Sequence[str], spool: pathlib.Path) -> list[Source]:
    """Finds the recordings that arguments name, each once.

    Args:
      arguments: files; folders, of which all recordings are meant, at any depth; lists, text files with a path a row (relative to
        the list's folder or to the working directory; of a tab-separated row the first field; a header `path`, `filename` or
        `file` is passed over); `-` for the standard input.
      spool: a folder for what comes from the standard input.

    Raises:
      InputError: an argument names nothing, or a folder without recordings.
    """
    found: dict[str, Source] = {}
    for argument in arguments:
        for source in _of(argument, spool):
            found.setdefault(str(source.file), source)
    names: dict[str, pathlib.Path] = {}
    for source in found.values():
        if (other := names.setdefault(source.name, source.file)) != source.file:
            raise InputError(f"{other} and {source.file} have the same name {source.name}; give the folder above them")
    return list(found.values())


def _of(argument: str, spool: pathlib.Path) -> list[Source]:
    if argument == "-":
        file = spool / "stdin"
        with file.open("wb") as copy:
            # What decodes it may have to seek in it.
            shutil.copyfileobj(sys.stdin.buffer, copy)
        return [Source("stdin", file)]
    path = pathlib.Path(argument).expanduser()
    if path.is_dir():
        files = sorted(file for file in _below(path) if file.suffix.lower() in SUFFIXES)
        if not files:
            raise InputError(f"{path}: there is no recording in this folder ({', '.join(sorted(SUFFIXES))})")
        return [Source(file.relative_to(path).as_posix(), file) for file in files]
    if path.suffix.lower() in LISTS and path.is_file():
        return _listed(path)
    return [Source(path.name, path)]


def _below(folder):
    for parent, _, names in os.walk(folder):
        yield from (pathlib.Path(parent, name) for name in names if not name.startswith("."))


def _listed(file: pathlib.Path) -> list[Source]:
    try:
        rows = file.read_bytes().decode("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: not readable as a list of recordings ({error})") from None
    found = []
    for row in rows:
        name = row.split("\t")[0].strip()
        if not name or (not found and name.lower() in ("path", "filename", "file")):
            continue
        beside = file.parent / name
        path = beside if beside.exists() or not pathlib.Path(name).exists() else pathlib.Path(name)
        plain = pathlib.PurePath(name)
        found.append(Source(path.name if plain.is_absolute() or ".." in plain.parts else plain.as_posix(), path))
    if not found:
        raise InputError(f"{file}: the list names no recording")
    return found


def duration_s(source: Source) -> float | None:
    """Length of a recording by its header, for a progress bar; None where it does not say, or is broken."""
    try:
        info = soundfile.info(source.file)
    except (soundfile.SoundFileError, OSError, ValueError):
        return None
    return info.frames / info.samplerate if 0 < info.frames < 2**62 and info.samplerate > 0 else None
