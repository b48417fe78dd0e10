"""Errors and warnings for the user: one line each, without a traceback."""

import difflib
import logging
from collections.abc import Iterable, Sequence

LISTED = 10
"""Names in a message at most."""
LOGGER = logging.getLogger("mfl_jax")
"""Receives the warnings. The commands print them as `warning: ...` on standard error."""


class InputError(Exception):
    """Invalid input: a file, a row, a config field, a recording.

    The message is one line that says what is wrong, where, and what to do. The commands print it without a traceback and exit
    with status 2.
    """


def join_first(items: Sequence[str], separator: str = ", ") -> str:
    """Joins the first `LISTED` items for a message, and counts the others."""
    more = len(items) - LISTED
    return separator.join(items[:LISTED]) + (f"{separator}and {more} more" if more > 0 else "")


def suggest(name: str, known: Iterable[str]) -> str:
    """Returns ` (did you mean NAME?)` with the most similar known name, or nothing if none is similar.

    A name with dots is also found by its last part.
    """
    places = {part: full for full in sorted(known) for part in (full.rpartition(".")[2], full)}
    similar = difflib.get_close_matches(name, places, 1)
    return f" (did you mean {places[similar[0]]}?)" if similar else ""


def warn(message: str) -> None:
    """Warns of something the user should know but need not fix, in one line, through the logger `mfl_jax`."""
    LOGGER.warning("%s", message)
