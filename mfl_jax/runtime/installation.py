"""How this package is installed: the command that adds an extra, and the systems it runs on."""

import pathlib
import sys

from mfl_jax.errors import InputError

FOLDER = pathlib.Path(__file__).absolute().parents[2]
"""The folder that holds the package: a clone, or `site-packages`."""


def install_command(extra: str) -> str:
    """Returns the command that installs an extra, in a clone or beside an installed package."""
    is_clone = (FOLDER / "setup.cfg").is_file()
    return f"pip install -e '.[{extra}]'" if is_clone else f"pip install 'mfl_jax[{extra}]'"


def check_system() -> None:
    """Raises an InputError on Windows, which lacks the file locks and signals that runs rely on."""
    if sys.platform == "win32":
        raise InputError("mfl_jax runs on Linux and macOS, not on Windows; use the Windows Subsystem for Linux")
