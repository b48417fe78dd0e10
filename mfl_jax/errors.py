"""A user's mistakes and what is merely odd: one line each, no traceback."""

import sys


class InputError(Exception):
    """Something given to the program is wrong: a file, a row, a field, a recording.

    The message is one line that names what is wrong, where, and what to do. `mfl_jax.main` prints it without a traceback
    and exits with status 2.
    """


def warn(message: str) -> None:
    """Says one line on the standard error that the user should know and need not act on."""
    print(f"warning: {message}", file=sys.stderr, flush=True)
