"""launch/tpu_vm.sh and launch/tpu_worker.sh, with local processes as the workers of a slice."""

import json
import os
import pathlib
import signal

import pytest

from support import ROOT
from support.launching import ODD_FLAGS, Sandbox, wait_for
from support.small import small_dataset, small_flags

# The last test runs mfl_jax itself.
pytestmark = pytest.mark.lightly_optimised


def launch(sandbox, *run_flags, flags=(), **environment):
    """Calls tpu_vm.sh; returns its exit status, standard output and standard error."""
    return sandbox.call("tpu_vm.sh", "--name=t", "--zone=z", "--type=v5litepod-16", *flags, "--", *run_flags, **environment)


def write_plan(sandbox, **plan):
    """Sets what the stub of gcloud does; stub_gcloud.py explains the keys."""
    (sandbox.cloud / "plan.json").write_text(json.dumps(plan))


def gcloud_calls(sandbox):
    """The calls of gcloud in order, without `describe`."""
    calls = [json.loads(line) for line in (sandbox.cloud / "calls").read_text().splitlines()]
    return [f"{group} {verb}" for group, verb, *_ in calls if verb != "describe"]


def slices(sandbox):
    """The slices that exist."""
    return list((sandbox.cloud / "slices").glob("*"))


def test_creates_copies_installs_runs_fetches_and_deletes(sandbox):
    run_flags = ["--config=c", *ODD_FLAGS, "--workdir=runs/a b"]
    status, output, errors = launch(sandbox, *run_flags, flags=[f"--fetch={sandbox.tmp}/out"])
    assert status == 0, errors
    create, copy, ssh, fetch, delete = "tpu-vm create", "tpu-vm scp", "tpu-vm ssh", "tpu-vm scp", "tpu-vm delete"
    assert gcloud_calls(sandbox) == [create, copy, ssh, ssh, fetch, delete]
    first, second = sorted(sandbox.starts(), key=lambda start: start["JAX_PROCESS_ID"])
    assert first["argv"] == second["argv"] == ["mfl_jax.main", *run_flags]
    assert [pathlib.Path(start["cwd"]).name for start in (first, second)] == ["mfl_jax", "mfl_jax"]
    assert "[w-0] done\n" in output and "[w-1] done\n" in output
    assert (sandbox.tmp / "out" / "a b" / "epoch").read_text() == "3"
    assert slices(sandbox) == [] and list(sandbox.tmp.glob("mfl_jax.*")) == []


def test_workers_get_the_tracked_files_the_data_and_the_extras(sandbox):
    (sandbox.tmp / "prepared").mkdir()
    (sandbox.tmp / "prepared" / "clips").write_text("clips")
    status, _, errors = launch(sandbox, "--config=c", flags=[f"--data={sandbox.tmp}/prepared", "--keep"])
    assert status == 0, errors
    assert "t was kept and is billed until you delete it: gcloud compute tpus tpu-vm delete t --zone=z --quiet" in errors
    for worker in range(2):
        home = sandbox.cloud / "slices" / "t" / f"worker{worker}"
        names = {path.name for path in (home / "mfl_jax").iterdir()}
        assert {"launch", "setup.cfg", "pyproject.toml"} <= names and not {"untracked", "deleted"} & names
        assert (home / "mfl_jax" / "data" / "clips").read_text() == "clips"
        installations = (home / "pip").read_text()
        assert installations.count("--editable") == 1 and f"--editable {home}/mfl_jax[tpu,gcs]" in installations
    # The next call uses the slice, installs nothing again, and deletes it.
    status, _, errors = launch(sandbox, "--config=c", "--epochs=4")
    assert status == 0, errors
    calls = gcloud_calls(sandbox)
    assert calls.count("tpu-vm create") == 1 and calls[-1] == "tpu-vm delete" and slices(sandbox) == []


def test_an_image_with_an_old_python_gets_a_newer_one(sandbox):
    status, _, errors = launch(sandbox, "--config=c", flags=["--keep"], STUB_OLD_IMAGE="1")
    assert status == 0, errors
    pip = (sandbox.cloud / "slices" / "t" / "worker0" / "pip").read_text().splitlines()
    assert "--user uv" in pip[0] and pip[1].endswith("mfl_jax[tpu,gcs]")


@pytest.mark.parametrize(
    ("fail", "environment", "run_flags", "message", "expected_status"),
    [
        ({"tpu-vm create": [1]}, {}, [], "creating the slice ended with status 1\nerror: could not create t", 1),
        ({"tpu-vm scp": [1]}, {}, [], "copying the checkout ended with status 1", 1),
        ({}, {"STUB_PIP": "3"}, [], "installing ended with status 1", 1),
        ({}, {}, ["--fail=2"], "the run ended with status 2", 2),
        ({}, {}, ["--fail=1"], "the run ended with status 1", 1),
    ],
)
def test_a_failed_step_is_named_and_the_slice_is_deleted(sandbox, fail, environment, run_flags, message, expected_status):
    write_plan(sandbox, fail=fail)
    status, _, errors = launch(sandbox, "--config=c", *run_flags, **environment)
    assert status == expected_status and message in errors
    assert slices(sandbox) == [] and gcloud_calls(sandbox).count("tpu-vm create") == 1


def test_nothing_is_created_if_gcloud_cannot_tell_whether_the_slice_exists(sandbox):
    write_plan(sandbox, fail={"tpu-vm describe": [1]})
    status, _, errors = launch(sandbox, "--config=c")
    assert status == 2 and "planned to fail" in errors and "nothing was created" in errors
    assert gcloud_calls(sandbox) == []


@pytest.mark.parametrize("succeeded", [False, True])
def test_a_slice_is_kept_if_the_results_of_a_successful_run_cannot_be_fetched(sandbox, succeeded):
    write_plan(sandbox, fail={"tpu-vm scp": [0, 1]})
    run_flags = ["--config=c", "--workdir=runs/x", *([] if succeeded else ["--fail=1"])]
    status, _, errors = launch(sandbox, *run_flags, flags=[f"--fetch={sandbox.tmp}/out"])
    assert status == 1 and "could not fetch runs/x" in errors
    assert bool(slices(sandbox)) == succeeded and ("was kept and is billed" in errors) == succeeded


@pytest.mark.parametrize("queued", [False, True])
def test_a_preempted_slice_is_replaced_and_the_run_resumes(sandbox, queued):
    workdir = sandbox.tmp / "bucket"
    states = ["WAITING_FOR_RESOURCES", "PROVISIONING"] * queued
    write_plan(sandbox, preempt_at=f"{workdir}/epoch", epoch=2, states=states)
    run_flags = ["--config=c", f"--workdir={workdir}", "--wait_after=2"]
    status, output, errors = launch(sandbox, *run_flags, flags=["--spot", *["--queued"] * queued])
    assert status == 0, errors
    group = "queued-resources" if queued else "tpu-vm"
    attempt = [f"{group} create", "tpu-vm scp", "tpu-vm ssh", "tpu-vm ssh", f"{group} delete"]
    assert gcloud_calls(sandbox) == attempt + attempt
    assert "t was interrupted; retrying (1 of 5)" in errors
    assert [start["epoch"] for start in sandbox.starts()] == [0, 0, 2, 2]
    assert "[w-0] begins after epoch 2\n" in output and "[w-1] begins after epoch 2\n" in output
    assert (workdir / "epoch").read_text() == "3" and slices(sandbox) == []


def test_retries_limits_the_number_of_attempts(sandbox):
    workdir = sandbox.tmp / "bucket"
    write_plan(sandbox, preempt_at=f"{workdir}/epoch", epoch=2)
    status, _, errors = launch(sandbox, "--config=c", f"--workdir={workdir}", "--wait_after=2", flags=["--retries=0"])
    assert status == 255 and "--retries=0 allows no more" in errors and slices(sandbox) == []


def test_a_broken_connection_attaches_to_the_run_again(sandbox):
    workdir = sandbox.tmp / "bucket"
    write_plan(sandbox, cut_at=f"{workdir}/epoch", epoch=2)
    status, output, errors = launch(sandbox, "--config=c", f"--workdir={workdir}", "--wait_after=2")
    assert status == 0, errors
    assert "the run ended with status 255" in errors and "[w-0] done\n" in output
    assert len(sandbox.starts()) == 2, "the run was started twice"
    calls = gcloud_calls(sandbox)
    assert calls.count("tpu-vm create") == 1 and calls.count("tpu-vm scp") == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_script_checkpoints_fetches_and_deletes(sandbox, number):
    flags = ["--name=t", "--zone=z", "--type=v4-8", f"--fetch={sandbox.tmp}/out"]
    process = sandbox.start("tpu_vm.sh", *flags, "--", "--config=c", "--workdir=runs/x", "--wait_after=2")
    wait_for(sandbox.cloud / "slices" / "t" / "worker0" / "mfl_jax" / "runs" / "x" / "epoch", "2")
    # Ctrl-C signals all processes of a terminal, `kill` only the script.
    os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number, errors
    assert "stopping the run on t" in errors
    assert gcloud_calls(sandbox)[-3:] == ["tpu-vm ssh", "tpu-vm scp", "tpu-vm delete"] and slices(sandbox) == []
    assert (sandbox.tmp / "out" / "x" / "epoch").read_text() == "2"


def test_a_worker_does_not_mix_two_runs(sandbox):
    environment = {"STUB_WORKER": "0", "PATH": f"{sandbox.worker_bin}:{sandbox.environment['PATH']}"}
    first = sandbox.start("tpu_worker.sh", "run", "mfl_jax.main", "--wait_after=1", "--workdir=runs/x", **environment)
    wait_for(sandbox.root / "runs" / "x" / "epoch", "1")
    status, _, errors = sandbox.call("tpu_worker.sh", "run", "mfl_jax.main", "--workdir=runs/y", **environment)
    assert status == 2 and "another run is in progress here" in errors and "--wait_after=1" in errors
    assert sandbox.call("tpu_worker.sh", "stop", **environment)[0] == 0
    output, _ = first.communicate(timeout=60)
    assert first.returncode == 130 and output.endswith("[w-0] stopped with a checkpoint\n")
    assert sandbox.call("tpu_worker.sh", "stop", **environment)[0] == 0
    assert len(sandbox.starts()) == 1


@pytest.mark.ci_only
def test_mfl_jax_trains_on_the_workers(tmp_path):
    """Runs mfl_jax itself, on CPUs, with a prepared data set that the script copies."""
    small_dataset(tmp_path, development=4, evaluation=2)
    sandbox = Sandbox(tmp_path, ("launch", "setup.cfg", "pyproject.toml", "mfl_jax", "configs", "datasets"))
    workers = 2
    write_plan(sandbox, workers=workers)
    run_flags = [flag.replace(f"{ROOT}/", "") for flag in small_flags(tmp_path, epochs=1, batch_size=4, devices=0)]
    run_flags += ["--config.data_dir=data", "--config.accelerator=cpu", f"--workdir={tmp_path}/run"]
    jax_variables = {name: value for name, value in os.environ.items() if name.startswith("JAX_")}
    flags = [f"--data={tmp_path}/data", f"--fetch={tmp_path}/out"]
    status, output, errors = launch(sandbox, *run_flags, flags=flags, STUB_REAL="1", **jax_variables)
    assert status == 0, output + errors
    results = json.loads((tmp_path / "out" / "run" / "results.json").read_text())
    assert 0 <= results["event"]["micro_f"] <= 100 and results["system"] == "proposed"
    assert f"on {workers} cpu device(s)" in output
    assert slices(sandbox) == []
