"""Reads lists of recordings: text files that name one recording per row."""

import pathlib

from mfl_jax.data import event_rows, spelling
from mfl_jax.errors import InputError
from mfl_jax.inference.audio_source import AudioSource

HEADERS = ("path", "filename", "file")


def read_recording_list(file: pathlib.Path) -> list[AudioSource]:
    """Reads a list of recordings. A recording that several rows name, as in a list of events, is returned once per row.

    Args:
      file: UTF-8 text. If the first row names a column `path`, `filename` or `file`, that column holds the paths, otherwise the
        first. Columns are separated by tabs or, in a .csv file, by commas; `event_rows` says how fields are quoted. A path is
        relative to the folder of the list, to the folder above it (label lists lie in `meta/` below the recordings), or to the
        working directory: the first of these that has the file. Its folders may be separated by backslashes.

    Raises:
      InputError: the list can't be read, or names no recording.
    """
    text = event_rows.read_text(file, "list of recordings")
    rows = event_rows.parse_rows(text, file, "list of recordings", delimiter="," if file.suffix.lower() == ".csv" else "\t")
    names = [field.lower() for field in rows[0].fields] if rows else []
    column = next((number for number, name in enumerate(names) if name in HEADERS), None)
    fields = [(row, row.fields[column or 0]) for row in rows if len(row.fields) > (column or 0)]
    sources = [_find_source(field, file, row) for row, field in fields[0 if column is None else 1 :] if field]
    if not sources:
        raise InputError(f"{file}: the list names no recording")
    return sources


def _find_source(field: str, file: pathlib.Path, row: event_rows.Row) -> AudioSource:
    """Returns the recording of a row; one that does not exist has the path that it would have beside the list."""
    folders = (file.parent, file.parent.parent, pathlib.Path())
    try:
        for path in dict.fromkeys([field, field.replace("\\", "/")]):
            for folder in folders:
                if (found := spelling.find_file(folder, path)).exists():
                    return AudioSource(_name(path), found)
    except (OSError, ValueError):
        raise InputError(f"{row.place}: {field[:60]!r} ... is not a file name; expected one path per row") from None
    return AudioSource(_name(field), file.parent / field)


def _name(path: str) -> str:
    """Returns the name of a recording: its path if that is below the folder of the list."""
    written = pathlib.PurePath(path)
    return written.name if written.is_absolute() or ".." in written.parts else written.as_posix()
