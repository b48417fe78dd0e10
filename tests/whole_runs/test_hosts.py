"""Several processes on this machine, two CPU devices each: same numbers as one process, and all of them end."""

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
from mfl_jax.training import recording_counts
from mfl_jax.training.checkpoints import Checkpoints
from support import ROOT
from support.same_batch import after_twenty_steps, batches, build, gradients
from support.small import SEEDS, small_dataset

pytestmark = pytest.mark.lightly_optimised

DEVICES_EACH = 2
# Hosts exchange the same messages with fewer optimisations, and compile faster.
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


def start(count, *command, last_host_flags=()):
    """Starts a command as `count` hosts; the last one gets additional flags."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = []
    for number in range(count):
        place = {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}", "JAX_NUM_PROCESSES": str(count), "JAX_PROCESS_ID": str(number)}
        environment = os.environ | (place if count > 1 else {}) | QUICK
        environment["PYTHONPATH"] = f"{ROOT}:{ROOT / 'tests'}"
        arguments = [*map(str, command), *(last_host_flags if number == count - 1 else ())]
        processes.append(
            subprocess.Popen(
                [sys.executable, *arguments], cwd=ROOT, env=environment, text=True,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            )
        )  # fmt: skip
    return processes


def wait_until_ended(processes, timeout=300):
    """Returns their exit statuses and outputs."""
    try:
        outputs = [process.communicate(timeout=timeout)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [process.returncode for process in processes], outputs


def succeed(count, *command):
    """Runs a command on `count` hosts to the end; returns their outputs."""
    statuses, outputs = wait_until_ended(start(count, *command))
    assert statuses == [0] * count, "\n".join(outputs)
    return outputs


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A folder with a prepared data set and a config that uses it."""
    tmp = tmp_path_factory.mktemp("hosts")
    small_dataset(tmp)
    (tmp / "config.py").write_text(CONFIG.format(tests=str(ROOT / "tests"), tmp=str(tmp)))
    return tmp


def command(prepared, workdir, **fields):
    flags = [f"--config.{field}={value}" for field, value in fields.items()]
    return ["-m", "mfl_jax.main", f"--config={prepared / 'config.py'}", f"--workdir={workdir}", *flags]


@pytest.fixture(scope="module")
def alone(prepared):
    """The work directory of a run of one process."""
    workdir = prepared / "alone"
    succeed(1, *command(prepared, workdir))
    return workdir


# The numbers that several hosts compute.


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    """The numbers of one device of one process."""
    built = build(tmp_path_factory.mktemp("one"), 1)
    loss, grads, stats, sums = gradients(built, next(batches(1)))
    state, losses = after_twenty_steps(built)
    evaluated = built.eval_step(state, next(batches(1)), built.scalars)
    values = {
        "loss": loss, "gradients": grads, "statistics": stats, "sums": sums, "losses": losses, "params": state.params,
        "evaluated": evaluated, "initial": built.initial.params,
    }  # fmt: skip
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree.leaves_with_path(values)}


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    """The numbers of four processes."""
    file = tmp_path_factory.mktemp("several") / "values.npz"
    succeed(4, "tests/support/host_worker.py", "equality", file)
    with np.load(file) as values:
        assert values["['devices']"] == 4 * DEVICES_EACH
        return dict(values)


def worst(several, single, part, *, several_part=None, scale=None):
    """Returns the largest difference of a leaf, as a share of its norm or of its distance from `scale`.

    Args:
      several: values of several processes, by path.
      single: of one process.
      part: first element of the paths to compare.
      several_part: its name in `several` if it differs.
      scale: first element of the paths of the starting points of the distances.
    """
    shares = []
    for name, want in single.items():
        if name.startswith(f"['{part}']"):
            got = several[name.replace(part, several_part, 1) if several_part else name]
            if "histogram" in name:  # rounding moves some scores to the next bin
                got, want = got.cumsum(-1), want.cumsum(-1)
            start = single[name.replace(part, scale, 1)] if scale else 0.0
            shares.append(np.linalg.norm(got - want) / max(np.linalg.norm(want - start), 1e-6))
    assert shares
    return max(shares)


@pytest.mark.ci_only
def test_hosts_compute_the_numbers_of_one_process(several, single):
    assert several["['loss']"] == pytest.approx(single["['loss']"], rel=1e-5)
    assert worst(several, single, "gradients") <= 1e-4
    assert worst(several, single, "statistics") <= 1e-5
    assert worst(several, single, "sums") <= 1e-5
    assert worst(several, single, "losses") <= 1e-3
    assert worst(several, single, "params", scale="initial") <= 0.01
    # The parameters differ in the last bits, and so may a frame at the threshold.
    assert worst(several, single, "evaluated") <= 1e-2


@pytest.mark.ci_only
def test_the_comparison_notices_a_missing_sum_over_hosts(several, single):
    assert worst(several, single, "gradients", several_part="without sums") > 1e-2


# How several hosts behave.


def records(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def newest(workdir):
    with Checkpoints(workdir / "checkpoints", keep=2) as checkpoints:
        return checkpoints.newest()


def assert_same_run(workdir, alone):
    for one, other in zip(records(workdir), records(alone), strict=True):
        assert one["step"] == other["step"]
        assert one["train"]["loss"] == pytest.approx(other["train"]["loss"], rel=1e-3)
        assert one["train"]["event"]["loss"] == pytest.approx(other["train"]["event"]["loss"], rel=1e-3)
    results, expected = (json.loads((folder / "results.json").read_text()) for folder in (workdir, alone))
    assert results["clips"] == expected["clips"] == 12  # padding of the last batch neither loses nor repeats clips
    assert results["floors"] == expected["floors"]
    assert np.sum(results["scene"]["confusion"]) == 12
    counts = recording_counts.read_counts(workdir, results)  # their sums are those of results.json
    assert counts["answers"].sum(1).tolist() == [3] * 4
    assert results["event"]["micro_f"] == pytest.approx(expected["event"]["micro_f"], abs=1)
    stats, expected = newest(workdir)[0]["feature_stats"], newest(alone)[0]["feature_stats"]
    np.testing.assert_allclose(stats["mean"], expected["mean"], rtol=1e-6)
    np.testing.assert_allclose(stats["std"], expected["std"], rtol=1e-6)


def wait_for(workdir, epochs, processes):
    """Waits until a run has finished some epochs."""
    file = workdir / "metrics.jsonl"
    deadline = time.monotonic() + 200
    while not file.exists() or len(file.read_text().splitlines()) < epochs:
        assert time.monotonic() < deadline and all(process.poll() is None for process in processes), wait_until_ended(
            processes, 1
        )
        time.sleep(0.1)


@pytest.mark.ci_only
def test_a_signal_to_one_host_stops_all_and_one_process_goes_on(prepared, alone):
    """SIGTERM to the second of two; then one process with two devices, not four, trains the rest."""
    workdir = prepared / "preempted"
    processes = start(2, *command(prepared, workdir, epochs=2000))
    wait_for(workdir, 1, processes)
    processes[1].send_signal(signal.SIGTERM)
    signalled = time.monotonic()
    statuses, outputs = wait_until_ended(processes)
    assert statuses == [130, 130] and time.monotonic() - signalled < 30, outputs
    assert "the same command goes on from there" in outputs[0] and "stopped" not in outputs[1]
    stopped = int(newest(workdir)[0]["step"])
    assert f"after step {stopped}" in outputs[0] or f"after epoch {stopped // 5}" in outputs[0]
    epochs = max(stopped // 5 + 1, 3)
    (output,) = succeed(1, *command(prepared, workdir, epochs=epochs))
    assert f"resumes after step {stopped}" in output
    assert json.loads((workdir / "results.json").read_text())["checkpoint"]["step"] == epochs * 5
    (longer,) = succeed(1, *command(prepared, alone, epochs=epochs)) if epochs > 3 else ("",)
    assert "resumes after step 15" in longer or epochs <= 3
    assert_same_run(workdir, alone)
    succeed(2, *command(prepared, workdir, epochs=epochs), "--mode=evaluate")
    assert_same_run(workdir, alone)
    history = [json.loads(line) for line in (workdir / "history.jsonl").read_text().splitlines()]
    assert [(start["hosts"], start["devices"], start["from_step"]) for start in history] == [(2, 4, 0), (1, 2, stopped)]


@pytest.mark.ci_only
def test_a_killed_host_ends_the_others(prepared):
    workdir = prepared / "killed"
    processes = start(2, *command(prepared, workdir, epochs=2000))
    wait_for(workdir, 3, processes)  # by then the first checkpoint is complete
    processes[1].kill()
    killed = time.monotonic()
    statuses, outputs = wait_until_ended(processes, timeout=60)
    assert statuses == [1, -signal.SIGKILL] and time.monotonic() - killed < 60, outputs[0][-3000:]
    assert "error: another process of this run was lost" in outputs[0].splitlines()[-1]
    assert "goes on from the last checkpoint" in outputs[0]
    assert int(newest(workdir)[0]["step"]) >= 5


def assert_all_refuse(processes, message):
    """Every host prints the reason, whichever of them exits first, and none blames a lost process."""
    statuses, outputs = wait_until_ended(processes)
    assert statuses == [2] * len(processes), "\n".join(outputs)
    for output in outputs:
        assert f"error: {message}" in output and "was lost" not in output and "Traceback" not in output, output


@pytest.mark.ci_only
def test_hosts_with_different_commands_are_refused(prepared):
    processes = start(2, *command(prepared, prepared / "different"), last_host_flags=["--config.seed=1"])
    assert_all_refuse(processes, "host 1 has another config or other data")
    processes = start(2, *command(prepared, prepared / "here"), last_host_flags=[f"--workdir={prepared / 'there'}"])
    assert_all_refuse(processes, "host 1 does not see the files that are written to")


@pytest.mark.ci_only
def test_hosts_that_each_find_the_same_mistake_all_name_it(prepared):
    assert_all_refuse(
        start(2, *command(prepared, prepared / "device", devices=1)), "config.devices is 1; must be 0 for several hosts"
    )


@pytest.mark.ci_only
def test_hosts_share_the_runs_of_an_experiment(prepared):
    for count in (1, 2):
        succeed(count, "tests/support/host_worker.py", "experiment", prepared / f"experiment{count}")
    members = sorted(path.name for path in (prepared / "experiment1" / "members").iterdir())
    assert len(members) == 2 * SEEDS
    for member in members:
        one, two = (prepared / f"experiment{count}" / "members" / member for count in (1, 2))
        for a, b in zip(records(one), records(two), strict=True):
            assert a["train"]["loss"] == pytest.approx(b["train"]["loss"], rel=1e-3)
        assert {"results.json", "config.json", "checkpoints"} <= {path.name for path in two.iterdir()}
        weights = [json.loads((folder / "config.json").read_text())["active_weight"] for folder in (one, two)]
        assert weights[0] == pytest.approx(weights[1], rel=1e-3) and (weights[0] < 1) == member.startswith("flat")
    assert not (prepared / "experiment2" / "groups").exists()


# The place of a host in the cluster.


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
    ("flags", "environment", "message"),
    [
        ({"coordinator": "a:1"}, {}, "--processes, --process missing"),
        ({"coordinator": "a:1", "processes": 2, "process": 2}, {}, "--process=2 is not one of 2 processes"),
        ({"coordinator": "a", "processes": 2, "process": 1}, {}, "--coordinator=a: must be HOST:PORT"),
        ({"coordinator": "a:1", "process": 1}, {"JAX_NUM_PROCESSES": "two"}, "'two' in the environment"),
        ({}, {"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "0"}, "not a list of nodes"),
    ],
)
def test_an_invalid_place_is_refused(flags, environment, message):
    with pytest.raises(InputError, match=message):
        hosts.find_cluster_place(NO_FLAGS | flags, environment)
