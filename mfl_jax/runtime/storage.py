"""Files and folders, local or in an object store: names that a user gives, and files that are written whole or not at all."""

import contextlib
import importlib.util
import os
import pathlib
from collections.abc import Iterator

from etils import epath

from mfl_jax.errors import InputError


def expand_path(path: str | pathlib.Path) -> pathlib.Path:
    """A path with the home directory that it may name by `~`.

    Raises:
      InputError: there is no such home directory.
    """
    try:
        return pathlib.Path(path).expanduser()
    except RuntimeError:
        raise InputError(f"{path}: there is no such home directory") from None


def resolve_folder(name: str | pathlib.Path) -> pathlib.Path:
    """The folder that a user names, here or, by gs://BUCKET/NAME, in an object store (pip install gcsfs).

    Raises:
      InputError: there is no such home directory, or no package for such a store.
    """
    if not is_remote(name):
        return expand_path(name)
    if not importlib.util.find_spec("gcsfs") and not importlib.util.find_spec("tensorflow"):
        raise InputError(f"{name}: gs:// needs a package more: pip install -e '.[gcs]'")
    return epath.Path(name)


def is_remote(name: str | os.PathLike) -> bool:
    """Whether a place is in an object store, where each file appears whole or not at all, and none can be appended to."""
    return os.fspath(name).startswith("gs://")


@contextlib.contextmanager
def atomic_path(file: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields the name to write a file under; it is renamed at the end, so that the file is there whole or not at all."""
    part = file.with_name(f"{file.name[:40]}.part{os.getpid()}")  # no longer than the system takes
    try:
        yield part
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)


def atomic_write(file: pathlib.Path, content: str | bytes) -> None:
    """Writes a file, whole or not at all."""
    content = content.encode() if isinstance(content, str) else content
    if is_remote(file):
        file.write_bytes(content)
        return
    with atomic_path(file) as part:
        part.write_bytes(content)
