"""The record of a run's starts."""

import datetime
import json
import subprocess

import jax

from mfl_jax.runtime import history
from support.small import small_config


def git(folder, *arguments):
    command = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_code_version_is_the_commit_and_whether_files_changed(tmp_path, monkeypatch):
    monkeypatch.setattr(history, "__file__", str(tmp_path / "mfl_jax" / "runtime" / "history.py"))
    assert history.code_version() is None  # not in a repository
    git(tmp_path, "init", "--quiet")
    (tmp_path / "file").write_text("a")
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "--quiet", "--message=a")
    assert history.code_version() == {"commit": git(tmp_path, "rev-parse", "HEAD"), "changed": False}
    (tmp_path / "file").write_text("b")
    assert history.code_version()["changed"]
    monkeypatch.setattr(history, "__file__", str(tmp_path / "lib" / "mfl_jax" / "runtime" / "history.py"))
    assert history.code_version() is None  # installed inside another repository


def test_each_start_appends_a_line(tmp_path):
    config = small_config(tmp_path, seed=7)
    record = history.build_start_record(config, "abc", jax.devices())
    history.append_start(tmp_path, record)
    history.append_start(tmp_path, {**record, "from_step": 5})
    first, second = (json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines())
    assert first["seed"] == 7 and first["fingerprint"] == "abc" and first["config"]["channels"] == 4
    assert first["versions"]["jax"] == jax.__version__ and first["devices"] == 8 and first["hosts"] == 1
    assert datetime.datetime.fromisoformat(first["started"]).utcoffset() == datetime.timedelta(0)
    assert second == {**first, "from_step": 5}
