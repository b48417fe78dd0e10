"""launch/slurm.sh, with local processes as nodes."""

import json

import pytest

from support.launching import ODD_FLAGS, STUBS


def test_a_run_on_several_nodes_uses_the_port_of_its_job(sandbox):
    status, _, errors = sandbox.call("slurm.sh", "--nodes=3", "--cpus=4", "--", "--config=c", *ODD_FLAGS)
    assert status == 0, errors
    starts = sandbox.starts()
    assert sorted(start["JAX_PROCESS_ID"] for start in starts) == ["0", "1", "2"]
    port = 61440 + int(sandbox.environment["STUB_JOB"]) % 4096
    assert {(start["JAX_COORDINATOR_ADDRESS"], start["JAX_NUM_PROCESSES"]) for start in starts} == {(f"node1:{port}", "3")}
    assert all(start["argv"] == ["mfl_jax.main", "--config=c", *ODD_FLAGS] for start in starts)
    assert all(start["cwd"] == str(sandbox.root) for start in starts)
    assert json.loads((sandbox.slurm / "steps").read_text())["cpus-per-task"] == "4"
    installations = (sandbox.home / "pip").read_text()
    assert installations.count("--editable") == 1 and "[cuda]" in installations


def test_a_job_that_reaches_its_time_limit_resumes(sandbox):
    workdir = sandbox.tmp / "runs"
    (sandbox.slurm / "plan.json").write_text(json.dumps({"stop_at": f"{workdir}/epoch", "epoch": 2}))
    status, output, errors = sandbox.call("slurm.sh", "--nodes=2", "--", f"--workdir={workdir}", "--wait_after=2")
    assert status == 0, errors
    assert "queued again (1 of 20)" in errors and output.count("begins after epoch 2") == 2
    assert (workdir / "epoch").read_text() == "3" and len(sandbox.starts()) == 4
    assert len({start["JAX_COORDINATOR_ADDRESS"] for start in sandbox.starts()}) == 1


@pytest.mark.parametrize(
    ("retries", "run_status"),
    [([], 2), ([], 1), (["--retries=0"], 130)],
)
def test_a_run_that_fails_is_not_queued_again(sandbox, retries, run_status):
    status, _, errors = sandbox.call("slurm.sh", *retries, "--", f"--fail={run_status}")
    assert status == run_status and len(sandbox.starts()) == 1
    assert ("after --retries=0 restarts; submit it again" in errors) == bool(retries)


def test_an_array_has_one_run_per_seed(sandbox):
    workdir = f"{sandbox.tmp}/all of them"
    status, _, errors = sandbox.call("slurm.sh", "--seeds=3-5", "--gpus=0", "--", "--config=c", f"--workdir={workdir}")
    assert status == 0, errors
    for seed, start in zip((3, 4, 5), sandbox.starts(), strict=True):
        assert start["argv"][-2:] == [f"--config.seed={seed}", f"--workdir={workdir}/seed{seed}"]
        assert start["JAX_COORDINATOR_ADDRESS"] is None and start["SLURM_ARRAY_TASK_ID"] == str(seed)
        assert (sandbox.tmp / "all of them" / f"seed{seed}" / "epoch").read_text() == "3"
    assert "[cuda]" not in (sandbox.home / "pip").read_text()


def test_an_array_has_one_run_per_line_of_flags(sandbox):
    flags = [f"--list={STUBS}/flags.list", "--", "--config=c", f"--workdir={sandbox.tmp}/x"]
    status, _, errors = sandbox.call("slurm.sh", *flags)
    assert status == 0, errors
    assert [start["argv"][3:-1] for start in sandbox.starts()] == [
        ["--config.alpha=0.001"],
        ["--config.alpha=0.1", "--config.note=a louder scene, it's said"],
        ["--config.alpha=1"],
    ]
    assert [start["argv"][-1] for start in sandbox.starts()] == [f"--workdir={sandbox.tmp}/x/job{number}" for number in range(3)]


def test_inside_an_allocation_the_run_starts_there(sandbox):
    allocation = {"SLURM_JOB_ID": "77", "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_NODELIST": "node[4-5]"}
    status, output, _ = sandbox.call("slurm.sh", "--dry_run", "--port=5000", "--", "--config=c", **allocation)
    assert status == 0 and output.startswith("srun --nodes=2 --ntasks=2 --ntasks-per-node=1 ") and "node4:5000" in output
    allocation["SLURM_JOB_ID"] = sandbox.environment["STUB_JOB"]
    status, _, errors = sandbox.call("slurm.sh", "--", "--config=c", **allocation)
    assert status == 0 and len(sandbox.starts()) == 2, errors
    status, _, errors = sandbox.call("slurm.sh", "--seeds=0-1", "--", "--workdir=x", **allocation)
    assert status == 2 and "outside an allocation" in errors
