"""Files and folders, local or in an object store: paths that a user types, and atomic writes."""

import contextlib
import importlib.util
import os
import pathlib
from collections.abc import Iterator

from etils import epath

from mfl_jax.errors import InputError
from mfl_jax.runtime.installation import install_command


def expand_path(path: str | pathlib.Path) -> pathlib.Path:
    """Expands a leading `~`.

    Raises:
      InputError: there is no such home directory.
    """
    try:
        return pathlib.Path(path).expanduser()
    except RuntimeError:
        raise InputError(f"{path}: there is no such home directory") from None


def resolve_folder(name: str | pathlib.Path) -> pathlib.Path:
    """Returns the path of a folder: local, or gs://BUCKET/NAME in Google Cloud Storage (which needs gcsfs).

    Raises:
      InputError: there is no such home directory, or no package for the store.
    """
    if not is_remote(name):
        return expand_path(name)
    if not importlib.util.find_spec("gcsfs") and not importlib.util.find_spec("tensorflow"):
        raise InputError(f"{name}: gs:// needs another package: {install_command('gcs')}")
    return epath.Path(name)


def is_remote(name: str | os.PathLike) -> bool:
    """Returns whether a path is in an object store. Writes there are atomic, and files cannot be appended to."""
    return os.fspath(name).startswith("gs://")


@contextlib.contextmanager
def atomic_path(file: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields a temporary path that is renamed to `file` at the end, so that readers never see half a file."""
    part = file.with_name(f"{file.name[:40]}.part{os.getpid()}")  # shortened, because systems limit the length of a name
    try:
        yield part
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)


def atomic_write(file: pathlib.Path, content: str | bytes) -> None:
    """Writes a file so that readers never see half of it."""
    content = content.encode() if isinstance(content, str) else content
    if is_remote(file):
        file.write_bytes(content)
        return
    with atomic_path(file) as part:
        part.write_bytes(content)
