"""Only one run at a time uses a work directory: a system lock where it is local, a heartbeat file in an object store."""

import contextlib
import fcntl
import json
import os
import pathlib
import platform
import re
import threading
import uuid
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from mfl_jax.errors import InputError
from mfl_jax.runtime import parallel, storage

FILE = "owner.json"
BEAT_S = 10.0
"""The owner of a work directory in a store rewrites its file this often."""
BEATS_TO_WAIT = 3
"""A file that has not changed for this many beats was left by a killed run."""
PART_FILE = re.compile(r".+\.part(\d+)")
"""Temporary names of `storage.atomic_path`; the group is the number of the writing process."""


@contextlib.contextmanager
def lock_workdir(workdir: pathlib.Path) -> Iterator[None]:
    """Creates a work directory and owns it for as long as the context lasts. Of several hosts, the first owns it.

    The system frees a local lock however the process ends, and the next owner removes temporary files of killed runs. In a
    store, a file that has not changed for a while is taken over; no clocks are compared.

    Raises:
      InputError: another run owns the directory, it is not writable, or the hosts of this run do not share it.
    """
    with _own(workdir) if parallel.is_first_host() else contextlib.nullcontext():
        parallel.barrier()
        disagreement = f"does not see the files that are written to {workdir}; name a --workdir that all hosts share, as seen by"
        parallel.check_hosts_agree(_read_run_id(workdir / FILE), disagreement)
        yield


def _read_run_id(file: pathlib.Path) -> str:
    try:
        return json.loads(file.read_text())["run"]
    except (OSError, ValueError, KeyError):
        return ""


@contextlib.contextmanager
def _own(workdir: pathlib.Path) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        try:
            workdir.mkdir(parents=True, exist_ok=True)
            lock = _heartbeat_file if storage.is_remote(workdir) else _locked_file
            stack.enter_context(lock(workdir / FILE))
        except OSError as error:
            raise InputError(f"{workdir}: not a folder to write to ({error.strerror or error})") from None
        yield


def _describe_owner() -> dict[str, Any]:
    return {"run": uuid.uuid4().hex, "host": platform.node(), "pid": os.getpid()}


def _refuse(file: pathlib.Path, content: str) -> NoReturn:
    """Raises the InputError that names the owner of `file`."""
    try:
        owner = json.loads(content)
        name = f"process {owner['pid']} on {owner['host']}"
    except (ValueError, KeyError, TypeError):
        name = "another process"
    raise InputError(f"{file.parent}: {name} is at work on it; wait for that, stop it, or name another --workdir")


@contextlib.contextmanager
def _locked_file(file: pathlib.Path) -> Iterator[None]:
    with open(file, "a+") as opened:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            opened.seek(0)
            _refuse(file, opened.read())
        opened.truncate(0)
        opened.write(json.dumps(_describe_owner()))
        opened.flush()
        _remove_part_files(file.parent)
        yield


def _remove_part_files(workdir: pathlib.Path) -> None:
    """Removes the temporary files of killed runs; those of a living process stay."""
    for folder, folders, names in os.walk(workdir):
        folders[:] = [name for name in folders if not name.isdigit()]  # checkpoints are complete
        for name in names:
            if (match := PART_FILE.fullmatch(name)) and not _is_other_living_process(int(match[1])):
                pathlib.Path(folder, name).unlink(missing_ok=True)


def _is_other_living_process(pid: int) -> bool:
    if pid == os.getpid():
        return False  # left by an earlier container with the same number: this process has written nothing yet
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True  # of another user
    except (ProcessLookupError, OverflowError):
        return False
    return True


@contextlib.contextmanager
def _heartbeat_file(file: pathlib.Path) -> Iterator[None]:
    """Owns a file in a store by rewriting it. When two runs start at the same moment, the one that wrote last keeps it."""
    owner, ended = _describe_owner(), threading.Event()

    def write(beat: int) -> None:
        file.write_text(json.dumps({**owner, "beat": beat}))

    def read() -> str:
        return file.read_text() if file.exists() else ""

    if (content := read()) and _has_heartbeat(read, content, ended):
        _refuse(file, read())
    write(0)
    ended.wait(BEAT_S / 2)
    if owner["run"] not in read():
        _refuse(file, read())

    def keep_writing() -> None:
        beat = 1
        while not ended.wait(BEAT_S):
            with contextlib.suppress(OSError):  # the store may be unreachable for a while
                write(beat)
            beat += 1

    thread = threading.Thread(target=keep_writing, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        file.unlink(missing_ok=True)


def _has_heartbeat(read: Callable[[], str], content: str, ended: threading.Event) -> bool:
    """Returns whether the file changes from `content` within `BEATS_TO_WAIT` beats."""
    for _ in range(BEATS_TO_WAIT):
        ended.wait(BEAT_S)
        if read() not in (content, ""):
            return True
    return False
