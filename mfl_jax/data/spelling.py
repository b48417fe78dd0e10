"""One spelling for texts that look the same: labels, names of recordings and files.

Unicode writes many letters in two ways: `ü` is one character, or `u` and a combining accent. macOS names files in the second way,
most editors write the first.
"""

import os
import pathlib
import unicodedata
from collections.abc import Iterable

from mfl_jax.errors import InputError

INVISIBLE = dict.fromkeys(map(ord, "\u00ad\u200b\u2060\ufeff"))
"""Soft hyphen, zero-width space, word joiner and byte order mark, as a table for `str.translate` that removes them."""


def normalise_name(text: str) -> str:
    """Returns a name of a recording with composed letters (Unicode NFC)."""
    return unicodedata.normalize("NFC", text)


def normalise_label(text: str) -> str:
    """Returns a label with composed letters, single plain spaces between words, and no invisible characters."""
    return " ".join(unicodedata.normalize("NFC", text).translate(INVISIBLE).split())


def find_label(label: str, labels: Iterable[str]) -> str | None:
    """Finds a label among others, however they are spelled: those of older runs and data sets may be in any form.

    Returns:
      The equal one of `labels`, or else the first one that looks the same; None if there is neither.
    """
    labels = list(labels)
    if label in labels:
        return label
    normal = normalise_label(label)
    return next((other for other in labels if normalise_label(other) == normal), None)


def find_file(folder: pathlib.Path, path: str) -> pathlib.Path:
    """Returns the file of a path below a folder, under the name that it has on disk.

    Returns:
      `folder / path` if it exists or if nothing does whose name looks the same.

    Raises:
      InputError: several names on disk look the same as the one in `path`.
    """
    exact = folder / path
    if path.isascii() or os.path.exists(exact):
        return exact
    file = folder
    for part in pathlib.PurePath(path).parts:
        if os.path.exists(file / part):
            file /= part
            continue
        alike = [name for name in _list_names(file) if normalise_name(name) == normalise_name(part)]
        if len(alike) > 1:
            raise InputError(f"{file}: {len(alike)} names look like {part!r} and differ only in Unicode form; rename one")
        if not alike:
            return exact
        file /= alike[0]
    return file


def _list_names(folder: pathlib.Path) -> list[str]:
    try:
        return [path.name for path in folder.iterdir()]
    except OSError:
        return []
