"""One run at a time on a work directory: a lock of the system where it is local, an object that keeps changing in a store."""

import contextlib
import fcntl
import json
import os
import pathlib
import platform
import re
import threading
import uuid
from collections.abc import Iterator

from mfl_jax.errors import InputError
from mfl_jax.runtime import parallel, storage

FILE = "owner.json"
BEAT_S = 10.0
"""How often the owner of a work directory in a store writes its object anew."""
BEATS_TO_WAIT = 3
"""An object that did not change for so many beats is left over from a run that was killed."""
LEFT = re.compile(r".+\.part(\d+)")
"""A name under which `settings.aside` writes, with the number of the process."""


@contextlib.contextmanager
def lock_workdir(workdir: pathlib.Path) -> Iterator[None]:
    """Owns a work directory, which is made, as long as the context lasts. Of a run over several hosts, the first one owns it.

    The system frees a local lock whatever ends the process, and files that a killed run left under temporary names are removed.
    What it leaves in a store is taken over when it has not changed for a while; no clock is asked what time it is.

    Raises:
      InputError: another run owns it (names that), it can't be written to, or the hosts of the run do not share it.
    """
    with _owned_by_first(workdir) if parallel.is_first_host() else contextlib.nullcontext():
        parallel.barrier()
        otherwise = f"does not see the files that are written to {workdir}; name a --workdir that all hosts share, as seen by"
        parallel.check_hosts_agree(_run_at_work(workdir / FILE), otherwise)
        yield


def _run_at_work(file) -> str:
    try:
        return json.loads(file.read_text())["run"]
    except (OSError, ValueError, KeyError):
        return ""


@contextlib.contextmanager
def _owned_by_first(workdir):
    with contextlib.ExitStack() as stack:
        try:
            workdir.mkdir(parents=True, exist_ok=True)
            stack.enter_context(_beating(workdir / FILE) if storage.is_remote(workdir) else _locked(workdir / FILE))
        except OSError as error:
            raise InputError(f"{workdir}: not a folder to write to ({error.strerror or error})") from None
        yield


def _me() -> dict:
    return {"run": uuid.uuid4().hex, "host": platform.node(), "pid": os.getpid()}


def _refuse(file, owner) -> None:
    try:
        owner = json.loads(owner)
        who = f"process {owner['pid']} on {owner['host']}"
    except (ValueError, KeyError, TypeError):
        who = "another process"
    raise InputError(f"{file.parent}: {who} is at work on it; wait for that, stop it, or name another --workdir")


@contextlib.contextmanager
def _locked(file):
    with open(file, "a+") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            held.seek(0)
            _refuse(file, held.read())
        held.truncate(0)
        held.write(json.dumps(_me()))
        held.flush()
        _clear(file.parent)
        yield


def _clear(workdir):
    """Removes the files under temporary names that killed runs left; that of a process that lives is its own."""
    for folder, folders, names in os.walk(workdir):
        folders[:] = [name for name in folders if not name.isdigit()]  # checkpoints, which are whole
        for name in names:
            if (left := LEFT.fullmatch(name)) and not _lives(int(left[1])):
                pathlib.Path(folder, name).unlink(missing_ok=True)


def _lives(process) -> bool:
    if process == os.getpid():
        return False  # in a container each run may have the same number; this one has written nothing yet
    try:
        os.kill(process, 0)
    except PermissionError:
        return True  # another user's
    except (ProcessLookupError, OverflowError):
        return False
    return True


@contextlib.contextmanager
def _beating(file):
    """Two runs that start at the same moment both write, and each finds after a beat whose object is there."""
    mine, ended = _me(), threading.Event()

    def write(beat):
        file.write_text(json.dumps({**mine, "beat": beat}))

    def read():
        return file.read_text() if file.exists() else ""

    if (found := read()) and _changes(read, found, ended):
        _refuse(file, read())
    write(0)
    ended.wait(BEAT_S / 2)
    if mine["run"] not in read():
        _refuse(file, read())

    def keep_beating():
        beat = 1
        while not ended.wait(BEAT_S):
            with contextlib.suppress(OSError):  # the store can be out of reach for a while
                write(beat)
            beat += 1

    thread = threading.Thread(target=keep_beating, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        file.unlink(missing_ok=True)


def _changes(read, before, ended) -> bool:
    for _ in range(BEATS_TO_WAIT):
        ended.wait(BEAT_S)
        if read() not in (before, ""):
            return True
    return False
