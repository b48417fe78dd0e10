"""One run at a time on a work directory, here and in a store that stands for one."""

import json
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
    print("mine", flush=True)
    time.sleep(100)
"""


def hold(workdir):
    """A process that owns `workdir`."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(workdir)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "mine\n"
    return process


def test_a_second_owner_is_refused_and_a_killed_one_forgotten(tmp_path):
    first = hold(tmp_path / "run")
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
    with workdir_lock.lock_workdir(tmp_path / "run"):  # freed at the end of the context
        pass


def test_a_place_that_is_no_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="not a folder to write to"), workdir_lock.lock_workdir(tmp_path / "file"):
        pass
    with pytest.raises(InputError, match="not a folder to write to"), workdir_lock.lock_workdir(tmp_path / "file" / "below"):
        pass


def test_an_error_of_the_work_itself_is_passed_on(tmp_path):
    with pytest.raises(OSError, match="of the work"), workdir_lock.lock_workdir(tmp_path / "run"):
        raise OSError(28, "of the work")


@pytest.fixture
def store(monkeypatch):
    """Folders of this machine taken for a store, with a quick heart."""
    monkeypatch.setattr(storage, "is_remote", lambda name: True)
    monkeypatch.setattr(workdir_lock, "BEAT_S", 0.1)


def test_in_a_store_an_owner_that_beats_is_respected(store, tmp_path):
    with workdir_lock.lock_workdir(tmp_path):
        first = json.loads((tmp_path / "owner.json").read_text())
        with pytest.raises(InputError, match="is at work on it"), workdir_lock.lock_workdir(tmp_path):
            pass
        time.sleep(0.3)
        later = json.loads((tmp_path / "owner.json").read_text())
        assert later["run"] == first["run"] and later["beat"] > first["beat"]
    assert not (tmp_path / "owner.json").exists()


@pytest.mark.parametrize("content", ['{"run": "old", "host": "gone", "pid": 1, "beat": 7}', "{", "[]"])
def test_in_a_store_what_was_left_over_is_taken_over(store, tmp_path, content):
    (tmp_path / "owner.json").write_text(content)
    with workdir_lock.lock_workdir(tmp_path):
        assert json.loads((tmp_path / "owner.json").read_text())["host"] != "gone"


def test_in_a_store_one_of_two_that_start_together_is_left(store, tmp_path):
    outcome, both = [], threading.Barrier(2)

    def contend():
        both.wait()
        try:
            with workdir_lock.lock_workdir(tmp_path):
                outcome.append("owned")
                time.sleep(1)
        except InputError:
            outcome.append("refused")

    threads = [threading.Thread(target=contend) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcome) == ["owned", "refused"]
