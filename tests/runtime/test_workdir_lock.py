"""One run at a time on a work directory, local and in a simulated store."""

import json
import os
import subprocess
import sys
import threading
import time

import pytest

from mfl_jax.errors import InputError
from mfl_jax.runtime import storage, workdir_lock

HOLD = """
import pathlib, sys, time
from mfl_jax.runtime import workdir_lock
with workdir_lock.lock_workdir(pathlib.Path(sys.argv[1])):
    print("owned", flush=True)
    time.sleep(100)
"""


def start_owner(workdir):
    """Starts a process that owns `workdir`."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(workdir)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "owned\n"
    return process


def test_a_second_owner_is_refused_until_the_first_is_killed(tmp_path):
    first = start_owner(tmp_path / "run")
    try:
        with (
            pytest.raises(InputError, match=f"run: process {first.pid} on .* is at work on it"),
            workdir_lock.lock_workdir(tmp_path / "run"),
        ):
            pass
    finally:
        first.kill()
        first.communicate()
    with workdir_lock.lock_workdir(tmp_path / "run"):
        assert json.loads((tmp_path / "run" / "owner.json").read_text())["pid"] != first.pid
    with workdir_lock.lock_workdir(tmp_path / "run"):  # the lock is freed at the end of the context
        pass


def test_a_file_as_work_directory_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="not a folder to write to"), workdir_lock.lock_workdir(tmp_path / "file"):
        pass
    with pytest.raises(InputError, match="not a folder to write to"), workdir_lock.lock_workdir(tmp_path / "file" / "below"):
        pass


def test_an_error_inside_the_context_is_passed_on(tmp_path):
    with pytest.raises(OSError, match="disk full"), workdir_lock.lock_workdir(tmp_path / "run"):
        raise OSError(28, "disk full")


@pytest.fixture
def store(monkeypatch):
    """Treats local folders as a store, with a heartbeat of 0.1 s."""
    monkeypatch.setattr(storage, "is_remote", lambda name: True)
    monkeypatch.setattr(workdir_lock, "BEAT_S", 0.1)


def read_owner(folder):
    """Reads the owner of a folder in a store. A local file is empty for a moment while it is written; objects never are."""
    while not (text := (folder / "owner.json").read_text()):
        pass
    return json.loads(text)


def test_in_a_store_a_living_owner_is_respected(store, tmp_path):
    with workdir_lock.lock_workdir(tmp_path):
        first = read_owner(tmp_path)
        with pytest.raises(InputError, match="is at work on it"), workdir_lock.lock_workdir(tmp_path):
            pass
        time.sleep(0.3)
        later = read_owner(tmp_path)
        assert later["run"] == first["run"] and later["beat"] > first["beat"]
    assert not (tmp_path / "owner.json").exists()


@pytest.mark.parametrize("content", ['{"run": "old", "host": "gone", "pid": 1, "beat": 7}', "{", "[]"])
def test_in_a_store_the_file_of_a_killed_run_is_taken_over(store, tmp_path, content):
    (tmp_path / "owner.json").write_text(content)
    with workdir_lock.lock_workdir(tmp_path):
        assert read_owner(tmp_path)["host"] != "gone"


def test_in_a_store_one_of_two_simultaneous_starts_wins(store, tmp_path):
    outcomes, barrier = [], threading.Barrier(2)

    def contend():
        barrier.wait()
        try:
            with workdir_lock.lock_workdir(tmp_path):
                outcomes.append("owned")
                time.sleep(1)
        except InputError:
            outcomes.append("refused")

    threads = [threading.Thread(target=contend) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["owned", "refused"]


def test_the_owner_removes_temporary_files_of_killed_runs(tmp_path):
    """Files with a temporary name of a live process, and files inside checkpoints, stay."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    stale = [f"metrics.jsonl.part{ended.pid}", f"members/x/checkpoints.sums/5.json.part{ended.pid}", f"a.part{os.getpid()}"]
    others = [f"tables/a.md.part{os.getppid()}", "my.part1x", "metrics.jsonl", f"checkpoints/5/b.part{ended.pid}"]
    for name in (*stale, *others):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    with workdir_lock.lock_workdir(tmp_path):
        assert not any((tmp_path / name).exists() for name in stale) and all((tmp_path / name).exists() for name in others)
