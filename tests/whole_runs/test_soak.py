"""The soak test: it kills only live processes, recognises losses, and finds none after a kill of each kind."""

import json
import os
import pathlib
import random
import subprocess
import sys

import numpy as np
import pytest

from benchmarks.soak import __main__ as soak_command
from benchmarks.soak import damage, inputs, kinds, outcomes, phases, processes, workdirs
from mfl_jax.errors import InputError
from mfl_jax.runtime import workdir_lock
from support import ROOT

pytestmark = pytest.mark.lightly_optimised


def touch(home, *names):
    for name in names:
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).touch()


def assert_all_damage_is_noticed(counts):
    assert counts["flip_a_bit"] == counts["truncate"] == counts["files"] > 10
    assert counts["fell_back"] == 2 * counts["files"]


@pytest.mark.ci_only
def test_a_kill_of_each_kind_costs_nothing(tmp_path):
    flags = ["--kills=3", "--epochs=3", "--recordings=4", "--commands=0", f"--workdir={tmp_path / 'soak'}"]
    command = [sys.executable, "-m", "benchmarks.soak", *flags]
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "1"}
    process = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    output = json.loads(process.stdout)
    (result,) = output["results"]
    assert output["benchmark"] == "benchmarks.soak"
    assert (result["kills"], result["lost"], result["left"], result["what"]) == (3, 0, 0, [])
    for kind in ("training", "experiment", "preparation"):
        assert result[kind]["kills"] == result[kind]["runs_to_their_end"] == sum(result[kind]["phases"].values()) == 1
    assert result["training"]["second_runs_refused"] == 1
    assert_all_damage_is_noticed(result["spoilt"])


def test_kills_are_shared_out():
    for kills in (3, 4, 7, 50):
        shares = kinds.share_kills(kills)
        assert sum(shares.values()) == kills and min(shares.values()) >= 1
    assert kinds.share_kills(50) == {"training": 25, "experiment": 15, "preparation": 10}
    with pytest.raises(InputError, match="--kills=2: must be at least 3"):
        kinds.share_kills(2)


def test_only_a_live_process_is_killed():
    def start(code):
        return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)

    sleeping = start("import time; print(flush=True); time.sleep(60)")
    sleeping.stdout.readline()

    def look():
        assert pathlib.Path(f"/proc/{sleeping.pid}/stat").read_text().split()[2] == "T"
        return "asleep"

    assert processes.stop_and_kill(sleeping, look) == (None, "asleep") and sleeping.returncode == -9
    sleeping.stdout.close()
    for waited_for in (True, False):
        ended = start("raise SystemExit(3)")
        ended.stdout.close()
        if waited_for:
            ended.wait()
        else:
            os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
        assert processes.stop_and_kill(ended, lambda: pytest.fail("the process had ended")) == (3, "")


@pytest.mark.parametrize(
    ("names", "phase"),
    [
        ([], "step"),
        (["checkpoints/5/_CHECKPOINT_METADATA", "checkpoints.sums/5.json"], "step"),
        (["checkpoints/10/_CHECKPOINT_METADATA", "checkpoints.sums/10.json", "metrics.jsonl"], "finish"),
        (["checkpoints/5/_CHECKPOINT_METADATA", "checkpoints/10.orbax-checkpoint-tmp/state/d"], "checkpoint"),
        (["checkpoints/5/about/metadata", "checkpoints/10/_CHECKPOINT_METADATA"], "deletion"),
        (["checkpoints/5/_CHECKPOINT_METADATA", "metrics.jsonl.part7"], "metrics"),
        (["checkpoints/5/_CHECKPOINT_METADATA", "checkpoints.sums/5.json.part7"], "sums"),
        # Checksums of a deleted checkpoint remain, and the newest checkpoint already has its own.
        (["checkpoints/5/_CHECKPOINT_METADATA", "checkpoints.sums/5.json", "checkpoints.sums/1.json"], "sums"),
        (["checkpoints/5/_CHECKPOINT_METADATA", "checkpoints.sums/1.json"], "step"),
    ],
)
def test_phases_of_training(tmp_path, names, phase):
    touch(tmp_path, *names)
    (tmp_path / "config.json").write_text('{"epochs": 2}')
    if "metrics.jsonl" in names:
        (tmp_path / "metrics.jsonl").write_text('{"epoch": 1}\n{"epoch": 2}\n')
    assert phases.name_phase(tmp_path, phases.TRAINING, "step") == phase


def test_phases_of_an_experiment(tmp_path):
    def phase():
        return phases.name_phase(tmp_path, phases.EXPERIMENT, "step")

    touch(tmp_path, "groups/a/checkpoints/5/_CHECKPOINT_METADATA", "groups/a/checkpoints/5/about/metadata")
    (tmp_path / "groups/a/checkpoints/5/about/metadata").write_text('{"members": ["x", "y"]}')
    touch(tmp_path, "members/x/metrics.jsonl", "members/y/metrics.jsonl")
    assert phase() == "step"
    touch(tmp_path, "members/x/checkpoints/5.orbax-checkpoint-tmp/about/metadata")
    assert phase() == "dealing"
    (tmp_path / "members/x/checkpoints/5.orbax-checkpoint-tmp").rename(tmp_path / "members/x/checkpoints/5")
    touch(tmp_path, "members/x/checkpoints/5/_CHECKPOINT_METADATA", "members/x/results.json")
    assert phase() == "finish"
    touch(tmp_path, "members/y/results.json")
    assert phase() == "clearing"


def test_phases_of_a_preparation(tmp_path):
    def phase():
        return phases.name_phase(tmp_path, phases.PREPARATION, "spectrograms")

    home = tmp_path / inputs.DATASET
    touch(home, ".lock", "incomplete.x_1.0.0/features.json")
    assert phase() == "spectrograms"
    touch(home, "incomplete.x_1.0.0/soak-development.array_record-00000-of-00001.1.part")
    assert phase() == "shards"
    touch(home, "incomplete.x_1.0.0/dataset_info.json")
    assert phase() == "sealing"
    (home / "incomplete.x_1.0.0").rename(home / "1.0.0")
    assert phase() == "finish"


def test_epochs_with_a_checkpoint_are_saved(tmp_path):
    lines = [json.dumps({"epoch": epoch, "step": 5 * epoch, "seconds": epoch / 7}) for epoch in (1, 2, 3)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    assert workdirs.read_saved_metrics(tmp_path) == set()
    touch(tmp_path, "checkpoints/5/about/metadata", "checkpoints/10/about/metadata", "checkpoints/15.orbax-checkpoint-tmp/x")
    for step in (5, 10):
        (tmp_path / f"checkpoints/{step}/about/metadata").write_text("{}")
    saved = workdirs.read_saved_metrics(tmp_path)
    assert {line for _, line in saved} == set(lines[:2]) and workdirs.count_repeated_epochs(tmp_path, saved, "") == 0
    (tmp_path / "metrics.jsonl").write_text("\n".join([lines[0], lines[1].replace("0.28", "0.29")]))
    assert workdirs.count_repeated_epochs(tmp_path, saved, "") == 1
    output = "warning: D: 3 of 8 spectrograms are there from a preparation that was broken off"
    assert [workdirs.count_repeated_spectrograms(tmp_path, set("abcd"), text) for text in (output, "")] == [1, None]


def test_differences_are_reported_by_path():
    left = {"a": {"b": [1, 2], "c": 0.1}, "d": float("nan")}
    assert outcomes.find_differences(left, json.loads(json.dumps(left))) == []
    right = {"a": {"b": [1, 3], "c": np.nextafter(0.1, 1).item()}, "e": 1}
    assert outcomes.find_differences(left, right) == ["/a/b", "/a/c", "/d", "/e"]


def test_damage_changes_a_file(tmp_path):
    rng, file, content = random.Random(0), tmp_path / "a", bytes(range(50))
    for _ in range(50):
        file.write_bytes(content)
        damage.flip_a_bit(file, rng)
        bits = np.unpackbits(np.frombuffer(file.read_bytes(), np.uint8) ^ np.frombuffer(content, np.uint8))
        assert bits.sum() == 1
        file.write_bytes(content)
        damage.truncate(file, rng)
        assert len(file.read_bytes()) < 50 and content.startswith(file.read_bytes())


def test_a_held_lock_is_not_free(tmp_path):
    home = tmp_path / "run"
    lock = home / workdir_lock.FILE
    assert processes.is_free(lock, 0)
    with workdir_lock.lock_workdir(home):
        assert not processes.is_free(lock, 0)
    assert processes.is_free(lock, 0)


def test_a_folder_in_use_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"--workdir=.*is not empty"):
        soak_command.measure(tmp_path, kills=3, seed=0, epochs=6, recordings=2, commands=0)
