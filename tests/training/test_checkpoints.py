"""Checkpoints with damaged files, on full disks, and how many of them are kept."""

import dataclasses
import json
import os
import pathlib
import resource
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest

from mfl_jax.errors import InputError
from mfl_jax.training.checkpoints import Checkpoints
from mfl_jax.training.steps import TrainState
from support import ROOT, TESTS

ABOUT = {"fingerprint": "f", "epoch": 1}


def state(step):
    """A state with a few arrays that depend on the step."""
    arrays = {"w": np.arange(5000, dtype=np.float32) + step, "b": np.full(3, step, np.float32)}
    return TrainState(
        step=np.int32(step), params=arrays, batch_stats={"mean": np.ones(2, np.float32)}, opt_state={"mu": arrays},
        feature_stats={"mean": np.zeros(4, np.float32)}, sums={"loss": np.float32(step), "batches": np.float32(step)},
    )  # fmt: skip


def steps_on_disk(folder):
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdecimal())


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A folder with checkpoints of steps 10 and 20."""
    folder = tmp_path_factory.mktemp("two") / "checkpoints"
    with Checkpoints(folder, keep=2) as checkpoints:
        for step in (10, 20):
            checkpoints.save(state(step), ABOUT)
    return folder


def files_of(folder):
    return sorted(str(path.relative_to(folder)) for path in (folder / "20").rglob("*") if path.is_file())


def flip(file):
    content = bytearray(file.read_bytes())
    if not content:
        return False
    content[len(content) // 2] ^= 4
    file.write_bytes(content)
    return True


def truncate(file):
    size = file.stat().st_size
    os.truncate(file, size // 2)
    return size > 0


def remove(file):
    file.unlink()
    return True


def add(file):
    file.with_name("more").write_text("")
    return True


@pytest.mark.parametrize("damage", [flip, truncate, remove, add])
def test_damage_to_any_file_is_noticed(two, tmp_path, capsys, damage):
    """Damages one file after the other."""
    damaged = 0
    for number, name in enumerate(files_of(two)):
        copy = tmp_path / str(number) / "checkpoints"
        shutil.copytree(two, copy)
        shutil.copytree(two.with_name("checkpoints.sums"), copy.with_name("checkpoints.sums"))
        if not damage(copy / name):
            continue
        with Checkpoints(copy, keep=2) as checkpoints:
            plain, about = checkpoints.newest()
        assert int(plain["step"]) == 10 and plain["params"]["w"][1] == 11 and about["epoch"] == 1, name
        assert "20: damaged checkpoint" in capsys.readouterr().err
        damaged += 1
    assert damaged >= 5


def test_a_checkpoint_without_file_digests_counts_if_its_arrays_are_intact(two, tmp_path):
    """A process killed between writing the checkpoint and its digests leaves such a state."""
    shutil.copytree(two, tmp_path / "checkpoints")
    with Checkpoints(tmp_path / "checkpoints", keep=2) as checkpoints:
        assert int(checkpoints.newest()[0]["step"]) == 20


@pytest.mark.parametrize(("batches", "filled"), [(0, 0), (3, np.nan), ([3, 3], [np.nan, np.nan]), ([0, 0], [0, 0])])
def test_sums_missing_from_an_older_checkpoint_are_filled(tmp_path, batches, filled):
    """Within an epoch they are unknown; of a run, and of two runs stacked."""
    batches = np.float32(batches)
    old = {"batches": batches, "event": {"loss": 2 * batches}}
    new = {"batches": batches, "event": {"loss": batches, "plain_loss": batches}, "scene": {"plain_loss": batches}}
    with Checkpoints(tmp_path / "checkpoints", keep=2) as checkpoints:
        checkpoints.save(dataclasses.replace(state(10), sums=old), ABOUT)
        checkpoints.wait()
        resumed, _ = checkpoints.resume(dataclasses.replace(state(0), sums=new))
    want = {**old, "event": {**old["event"], "plain_loss": np.float32(filled)}, "scene": {"plain_loss": np.float32(filled)}}
    jax.tree.map(np.testing.assert_array_equal, resumed.sums, want)
    assert {leaf.dtype for leaf in jax.tree.leaves(resumed.sums)} == {np.dtype("float32")}


def test_only_the_requested_checkpoints_are_kept(tmp_path):
    with Checkpoints(tmp_path / "checkpoints", keep=2, keep_every=30) as checkpoints:
        sizes = []
        for step in range(10, 110, 10):
            checkpoints.save(state(step), ABOUT)
            checkpoints.wait()
            sizes.append(checkpoints.bytes())
    assert steps_on_disk(tmp_path / "checkpoints") == [30, 60, 90, 100]
    assert sorted(int(file.stem) for file in (tmp_path / "checkpoints.sums").iterdir()) == [30, 60, 90, 100]
    assert sizes[-1] == sum(file.stat().st_size for file in (tmp_path / "checkpoints").rglob("*") if file.is_file())
    assert sizes[-1] < 2.5 * sizes[1]  # four of them, and two


def test_the_owner_deletes_half_written_checkpoints(two, tmp_path):
    left = tmp_path / "checkpoints" / "30.orbax-checkpoint-tmp"
    shutil.copytree(two, tmp_path / "checkpoints")
    shutil.copytree(two / "20", left)
    with Checkpoints(tmp_path / "checkpoints", keep=2) as checkpoints:
        assert int(checkpoints.newest()[0]["step"]) == 20 and left.exists()
    with Checkpoints(tmp_path / "checkpoints", keep=2, owner=True) as checkpoints:
        assert int(checkpoints.newest()[0]["step"]) == 20
        checkpoints.save(state(40), ABOUT)  # waits until Orbax has deleted it in the background
        assert not left.exists()


FULL = """
import pathlib, resource, sys
sys.path[:0] = {paths!r}
from test_checkpoints import *
folder = pathlib.Path(sys.argv[1])
try:
    with Checkpoints(folder, keep=2) as checkpoints:
        checkpoints.save(state(10), ABOUT)
        checkpoints.wait()
        resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))  # like a disk with that much left
        checkpoints.save(state(20), ABOUT)
        checkpoints.wait()
except InputError as error:
    print(error)
"""


def test_a_full_disk_leaves_the_last_good_checkpoint(tmp_path):
    code = FULL.format(paths=[str(ROOT), str(TESTS), str(pathlib.Path(__file__).parent)])
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "checkpoints")], capture_output=True, text=True, check=False
    )
    assert "20: not written (" in done.stdout and "the last good checkpoint is from step 10" in done.stdout, done.stderr
    with Checkpoints(tmp_path / "checkpoints", keep=2, owner=True) as checkpoints:
        plain, _ = checkpoints.newest()
    assert int(plain["step"]) == 10 and plain["params"]["w"][0] == 10
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 4000


def test_a_nearly_full_disk_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    with Checkpoints(tmp_path / "checkpoints", keep=2) as checkpoints:
        checkpoints.check_room(state(10))
        checkpoints.save(state(10), ABOUT)
        usage = shutil.disk_usage(tmp_path)._replace(free=4_060_000)  # arrays of 40 kB need half as much again
        monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
        with pytest.raises(
            InputError, match=r"4\.1 MB are free .* needs up to 4\.1 MB; the last good checkpoint is from step 10"
        ):
            checkpoints.check_room(state(20))
        monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage._replace(free=4_061_000))
        checkpoints.check_room(state(20))


def test_digests_cover_all_files(two):
    sums = json.loads((two.with_name("checkpoints.sums") / "20.json").read_text())
    assert sorted(f"20/{name}" for name in sums) == files_of(two)
    assert all(len(digest) == 64 for digest in sums.values())


def test_only_damaged_checkpoints_are_an_error(two, tmp_path):
    shutil.copytree(two, tmp_path / "checkpoints")
    for step in (10, 20):
        for file in (tmp_path / "checkpoints" / str(step) / "state").rglob("*"):
            if file.is_file():
                flip(file)
    with (
        Checkpoints(tmp_path / "checkpoints", keep=2) as checkpoints,
        pytest.raises(InputError, match="all checkpoints are damaged"),
    ):
        checkpoints.newest()


def test_the_owner_writes_missing_checksums_when_it_resumes(tmp_path):
    """A run that is killed after its checkpoint and before the checksums leaves none."""
    folder, checksums = tmp_path / "checkpoints", tmp_path / "checkpoints.sums" / "5.json"
    with Checkpoints(folder, keep=2, owner=True) as checkpoints:
        checkpoints.save(state(5), {})
    expected = checksums.read_text()
    for owner in (False, True):
        checksums.unlink(missing_ok=True)
        with Checkpoints(folder, keep=2, owner=owner) as checkpoints:
            assert int(checkpoints.resume(state(0))[0].step) == 5
        assert checksums.exists() == owner
    assert checksums.read_text() == expected
