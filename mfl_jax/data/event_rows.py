"""Rows of tab-separated texts that hold one event each."""

import pathlib

from mfl_jax.errors import InputError


def read_text(file: pathlib.Path, what: str) -> str:
    """Reads a text in UTF-8, with or without a byte order mark.

    Raises:
      InputError: there is none (`what` says what was looked for), or it is no such text.
    """
    try:
        return file.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"{file}: no such {what}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: not readable as a UTF-8 text ({error})") from None
