"""The one exception that stands for a mistake of the user's, not of the program's."""


class InputError(Exception):
    """Something given to the program is wrong: a file, a row, a field, a recording.

    The message is one line that names what is wrong, where, and what to do. `mfl_jax.main` prints it without a traceback
    and exits with status 2.
    """
