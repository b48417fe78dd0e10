"""Errors and warnings for the user: one line each, without a traceback."""

import sys
from collections.abc import Sequence

LISTED = 10
"""Names in a message at most."""


class InputError(Exception):
    """Invalid input: a file, a row, a config field, a recording.

    The message is one line that says what is wrong, where, and what to do. The commands print it without a traceback and exit
    with status 2.
    """


def join_first(items: Sequence[str], separator: str = ", ") -> str:
    """Joins the first `LISTED` items for a message, and counts the others."""
    more = len(items) - LISTED
    return separator.join(items[:LISTED]) + (f"{separator}and {more} more" if more > 0 else "")


def warn(message: str) -> None:
    """Prints a warning in one line on standard error: something the user should know but need not fix."""
    print(f"warning: {message}", file=sys.stderr, flush=True)
