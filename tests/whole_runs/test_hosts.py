"""Several processes on this machine, two CPU devices each, against one process: the same numbers, and none left behind."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from mfl_jax.errors import InputError
from mfl_jax.runtime import hosts
from mfl_jax.training.checkpoints import Checkpoints
from support import ROOT
from support.same_batch import after_twenty_steps, batches, build, gradients
from support.small import SEEDS, small_dataset

pytestmark = pytest.mark.lightly_optimised

DEVICES_EACH = 2
# Less optimisation is faster to compile, and what hosts tell each other is the same.
QUICK = {"JAX_NUM_CPU_DEVICES": str(DEVICES_EACH), "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
NO_FLAGS = {"coordinator": None, "processes": None, "process": None, "hosts": "auto"}
CONFIG = """
import pathlib, sys
sys.path.insert(0, {tests!r})
from support import small
def get_config(kind="run"):
    make = small.small_experiment if kind == "experiment" else small.small_config
    return make(pathlib.Path({tmp!r}), devices=0)
"""


def start(count, *command, one=None):
    """Starts a command as `count` hosts; `one` are more arguments for the last of them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = []
    for number in range(count):
        place = {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}", "JAX_NUM_PROCESSES": str(count), "JAX_PROCESS_ID": str(number)}
        environment = os.environ | (place if count > 1 else {}) | QUICK
        environment["PYTHONPATH"] = f"{ROOT}:{ROOT / 'tests'}"
        arguments = [*map(str, command), *(one or [] if number == count - 1 else [])]
        started.append(
            subprocess.Popen(
                [sys.executable, *arguments], cwd=ROOT, env=environment, text=True,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            )
        )  # fmt: skip
    return started


def ended(processes, timeout=300):
    """Their exit statuses and what they said."""
    try:
        said = [process.communicate(timeout=timeout)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [process.returncode for process in processes], said


def succeed(count, *command):
    statuses, said = ended(start(count, *command))
    assert statuses == [0] * count, "\n".join(said)
    return said


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    tmp = tmp_path_factory.mktemp("hosts")
    small_dataset(tmp)
    (tmp / "config.py").write_text(CONFIG.format(tests=str(ROOT / "tests"), tmp=str(tmp)))
    return tmp


def command(prepared, workdir, **fields):
    given = [f"--config.{field}={value}" for field, value in fields.items()]
    return ["-m", "mfl_jax.main", f"--config={prepared / 'config.py'}", f"--workdir={workdir}", *given]


@pytest.fixture(scope="module")
def alone(prepared):
    """A run of one process."""
    workdir = prepared / "alone"
    succeed(1, *command(prepared, workdir))
    return workdir


# What several hosts compute.


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    """What one device of one process comes to."""
    built = build(tmp_path_factory.mktemp("one"), 1)
    loss, grads, stats, sums = gradients(built, next(batches(1)))
    state, losses = after_twenty_steps(built)
    evaluated = built.eval_step(state, next(batches(1)), built.scalars)
    made = {
        "loss": loss, "gradients": grads, "statistics": stats, "sums": sums, "losses": losses, "params": state.params,
        "evaluated": evaluated, "initial": built.initial.params,
    }  # fmt: skip
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree.leaves_with_path(made)}


@pytest.fixture(scope="module", params=[2, 4])
def several(request, tmp_path_factory):
    out = tmp_path_factory.mktemp("several") / "made.npz"
    succeed(request.param, "tests/support/host_worker.py", "equality", out)
    with np.load(out) as made:
        assert made["['devices']"] == request.param * DEVICES_EACH
        return dict(made)


def worst(several, single, part, *, made=None, scale=None):
    """The largest difference of a leaf, as a share of its norm, or of the distance from `scale` to it."""
    shares = []
    for name, want in single.items():
        if name.startswith(f"['{part}']"):
            got = several[name.replace(part, made, 1) if made else name]
            start = single[name.replace(part, scale, 1)] if scale else 0.0
            shares.append(np.linalg.norm(got - want) / max(np.linalg.norm(want - start), 1e-6))
    assert shares
    return max(shares)


def test_hosts_come_to_the_numbers_of_one_process(several, single):
    assert several["['loss']"] == pytest.approx(single["['loss']"], rel=1e-5)
    assert worst(several, single, "gradients") <= 1e-4
    assert worst(several, single, "statistics") <= 1e-5
    assert worst(several, single, "sums") <= 1e-5
    assert worst(several, single, "losses") <= 1e-3
    assert worst(several, single, "params", scale="initial") <= 0.01
    # The parameters differ in the last bits, and so may a frame at the threshold.
    assert worst(several, single, "evaluated") <= 1e-2


@pytest.mark.parametrize("without", ["without sums of gradients", "without sums of statistics"])
def test_the_comparison_notices_a_sum_over_hosts_left_out(several, single, without):
    if several["['devices']"] == 2 * DEVICES_EACH:
        assert worst(several, single, "gradients", made=without) > 1e-2


# What several hosts do.


def records(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def newest(workdir):
    with Checkpoints(workdir / "checkpoints", keep=2) as checkpoints:
        return checkpoints.newest()


def assert_like(workdir, alone):
    for one, other in zip(records(workdir), records(alone), strict=True):
        assert one["step"] == other["step"]
        assert one["train"]["loss"] == pytest.approx(other["train"]["loss"], rel=1e-3)
        assert one["train"]["event"]["loss"] == pytest.approx(other["train"]["event"]["loss"], rel=1e-3)
    results, expected = (json.loads((folder / "results.json").read_text()) for folder in (workdir, alone))
    assert results["clips"] == expected["clips"] == 12  # none lost or doubled by filling up the last batch
    assert results["floors"] == expected["floors"]
    assert np.sum(results["scene"]["confusion"]) == 12
    assert results["event"]["micro_f"] == pytest.approx(expected["event"]["micro_f"], abs=1)
    stats, expected = newest(workdir)[0]["feature_stats"], newest(alone)[0]["feature_stats"]
    np.testing.assert_allclose(stats["mean"], expected["mean"], rtol=1e-6)
    np.testing.assert_allclose(stats["std"], expected["std"], rtol=1e-6)


def wait_for(workdir, epochs, processes):
    """Waits until a run has done some epochs."""
    file = workdir / "metrics.jsonl"
    deadline = time.monotonic() + 200
    while not file.exists() or len(file.read_text().splitlines()) < epochs:
        assert time.monotonic() < deadline and all(process.poll() is None for process in processes), ended(processes, 1)
        time.sleep(0.1)


def test_a_signal_to_one_host_stops_all_and_one_process_goes_on(prepared, alone):
    """SIGTERM to the second of two; then the rest of the run by one process with two devices, not four."""
    workdir = prepared / "preempted"
    processes = start(2, *command(prepared, workdir, epochs=2000))
    wait_for(workdir, 1, processes)
    processes[1].send_signal(signal.SIGTERM)
    told = time.monotonic()
    statuses, said = ended(processes)
    assert statuses == [130, 130] and time.monotonic() - told < 30, said
    assert "the same command goes on from there" in said[0] and "stopped" not in said[1]
    stopped = int(newest(workdir)[0]["step"])
    assert f"after step {stopped}" in said[0] or f"after epoch {stopped // 5}" in said[0]
    epochs = max(stopped // 5 + 1, 3)
    (said,) = succeed(1, *command(prepared, workdir, epochs=epochs))
    assert f"resumes after step {stopped}" in said
    assert json.loads((workdir / "results.json").read_text())["checkpoint"]["step"] == epochs * 5
    (more,) = succeed(1, *command(prepared, alone, epochs=epochs)) if epochs > 3 else ("",)
    assert "resumes after step 15" in more or epochs <= 3
    assert_like(workdir, alone)
    history = [json.loads(line) for line in (workdir / "history.jsonl").read_text().splitlines()]
    assert [(start["hosts"], start["devices"], start["from_step"]) for start in history] == [(2, 4, 0), (1, 2, stopped)]


def test_a_killed_host_ends_the_others(prepared):
    workdir = prepared / "killed"
    processes = start(2, *command(prepared, workdir, epochs=2000))
    wait_for(workdir, 3, processes)  # by then the first checkpoint is whole
    processes[1].kill()
    killed = time.monotonic()
    statuses, said = ended(processes, timeout=60)
    assert statuses == [1, -signal.SIGKILL] and time.monotonic() - killed < 60, said[0][-3000:]
    assert "error: another process of this run was lost" in said[0].splitlines()[-1]
    assert "goes on from the last checkpoint" in said[0]
    assert int(newest(workdir)[0]["step"]) >= 5


def test_hosts_that_were_told_different_things_are_refused(prepared):
    statuses, said = ended(start(2, *command(prepared, prepared / "different"), one=["--config.seed=1"]))
    assert statuses == [2, 2]
    assert all("error: host 1 has another config or other data" in one for one in said)
    statuses, said = ended(start(2, *command(prepared, prepared / "here"), one=[f"--workdir={prepared / 'there'}"]))
    assert statuses == [2, 2]
    assert all("error: host 1 does not see the files that are written to" in one for one in said)
    statuses, said = ended(start(2, *command(prepared, prepared / "device", devices=1)))
    assert statuses == [2, 2] and "a run over several hosts takes all devices" in said[0]


def test_an_experiment_is_dealt_out_to_hosts(prepared):
    for count in (1, 2):
        succeed(count, "tests/support/host_worker.py", "experiment", prepared / f"experiment{count}")
    members = sorted(path.name for path in (prepared / "experiment1" / "members").iterdir())
    assert len(members) == SEEDS
    for member in members:
        one, two = (prepared / f"experiment{count}" / "members" / member for count in (1, 2))
        for a, b in zip(records(one), records(two), strict=True):
            assert a["train"]["loss"] == pytest.approx(b["train"]["loss"], rel=1e-3)
        assert {"results.json", "config.json", "checkpoints"} <= {path.name for path in two.iterdir()}
    assert not (prepared / "experiment2" / "groups").exists()


# Who is a host.


@pytest.mark.parametrize(
    ("flags", "environment", "place"),
    [
        ({}, {}, None),
        ({"coordinator": "a:1", "processes": 2, "process": 1}, {}, ("a:1", 2, 1)),
        ({"coordinator": "a:1", "processes": 1, "process": 0}, {}, None),
        ({}, {"JAX_COORDINATOR_ADDRESS": "b:2", "JAX_NUM_PROCESSES": "3", "JAX_PROCESS_ID": "0"}, ("b:2", 3, 0)),
        ({"process": 2}, {"JAX_COORDINATOR_ADDRESS": "b:2", "JAX_NUM_PROCESSES": "3", "JAX_PROCESS_ID": "0"}, ("b:2", 3, 2)),
        ({"hosts": "one"}, {"JAX_COORDINATOR_ADDRESS": "b:2", "JAX_NUM_PROCESSES": "3", "JAX_PROCESS_ID": "0"}, None),
        (
            {},
            {"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "3", "SLURM_STEP_NODELIST": "gpu[007-009,012]", "SLURM_JOB_ID": "4097"},
            ("gpu007:61441", 4, 3),
        ),
        (
            {},
            {"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "0", "SLURM_STEP_NODELIST": "a1,b2", "SLURM_JOB_ID": "5"},
            ("a1:61445", 2, 0),
        ),
        ({}, {"SLURM_JOB_ID": "5", "SLURM_NTASKS": "4", "SLURM_PROCID": "0"}, None),  # a batch script, not a task of a step
        ({}, {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0", "SLURM_STEP_NODELIST": "a1", "SLURM_JOB_ID": "5"}, None),
    ],
)
def test_the_place_of_a_host(flags, environment, place):
    assert hosts.find_cluster_place(NO_FLAGS | flags, environment) == place


@pytest.mark.parametrize(
    ("flags", "environment", "what"),
    [
        ({"coordinator": "a:1"}, {}, "--processes, --process missing"),
        ({"coordinator": "a:1", "processes": 2, "process": 2}, {}, "--process=2 is not one of 2 processes"),
        ({"coordinator": "a", "processes": 2, "process": 1}, {}, "--coordinator=a: must be HOST:PORT"),
        ({"coordinator": "a:1", "process": 1}, {"JAX_NUM_PROCESSES": "two"}, "'two' in the environment"),
        ({}, {"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "0"}, "not a list of nodes"),
    ],
)
def test_a_place_that_makes_no_sense_is_refused(flags, environment, what):
    with pytest.raises(InputError, match=what):
        hosts.find_cluster_place(NO_FLAGS | flags, environment)
