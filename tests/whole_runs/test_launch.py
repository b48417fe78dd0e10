"""The launch scripts: what they would call, and the whole way with local processes in place of clouds and clusters."""

import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest
import yaml
from test_main import small_flags

from support import ROOT
from support.small import write_recordings

pytestmark = pytest.mark.lightly_optimised

HERE = pathlib.Path(__file__).parent / "launch"
SCRIPTS = sorted(path for path in (ROOT / "launch").glob("*.sh"))
ODD = ['--config.note=it\'s a "b c" $HOME `d` *;\\', "--config.name="]

# Python on a worker or node: makes environments of itself, writes down what pip should do, and runs the stand-in for mfl_jax.
PYTHON = """#!/bin/sh
case "${0##*/}" in python3.1?) [ -z "$STUB_OLD_IMAGE" ] || exit 1 ;; esac
case "$1 $2" in
  "-m venv") mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
  "-m pip") echo "$*" >>"$HOME/pip"; exit "${STUB_PIP:-0}" ;;
  "-m uv") case "$4" in install) cp "$0" "$HOME/uv_python" ;; find) echo "$HOME/uv_python" ;; esac ;;
  "-c import jax;"*) echo "$STUB_GPUS" ;;
  "-m mfl_jax."*) [ -n "$STUB_REAL" ] || { shift; exec {python} {here}/stand_in.py "$@"; }; exec {python} "$@" ;;
  *) exec {python} "$@" ;;
esac
"""


def program(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


class Place:
    """A checkout, the programs that stand for a cloud or a cluster, and what they wrote down."""

    def __init__(self, tmp_path, copied=("launch", "setup.cfg", "pyproject.toml")):
        self.tmp, self.root, self.bin = tmp_path, tmp_path / "a checkout", tmp_path / "bin"
        self.root.mkdir()
        for name in copied:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, self.root / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(ROOT / name, self.root / name)
        (self.root / "gone").touch()
        subprocess.run(["git", "init", "--quiet"], cwd=self.root, check=True)
        subprocess.run(["git", "add", "--all"], cwd=self.root, check=True)
        (self.root / "gone").unlink()
        (self.root / "untracked").touch()
        for name in ("sbatch", "srun", "scontrol"):
            program(self.bin / name, f'#!/bin/sh\nexec {sys.executable} {HERE}/stub_slurm.py {name} "$@"\n')
        program(self.bin / "gcloud", f'#!/bin/sh\nexec {sys.executable} {HERE}/stub_gcloud.py "$@"\n')
        text = PYTHON.replace("{python}", sys.executable).replace("{here}", str(HERE))
        for name in ("python3", "python3.11", "python3.12", "python3.13"):
            program(tmp_path / "worker_bin" / name, text)
        program(tmp_path / "worker_bin" / "hostname", '#!/bin/sh\necho "t1v-n-0a1b2c3d-w-$STUB_WORKER"\n')
        self.cloud, self.slurm, self.home = tmp_path / "cloud", tmp_path / "slurm", tmp_path / "home"
        for folder in (self.cloud, self.slurm, self.home):
            folder.mkdir()
        self.environment = {
            "PATH": f"{self.bin}:/usr/local/bin:/usr/bin:/bin",
            "HOME": str(self.home),
            "PYTHON": str(tmp_path / "worker_bin" / "python3"),
            "STUB_CLOUD": str(self.cloud),
            "STUB_SLURM": str(self.slurm),
            "STUB_JOB": str(time.monotonic_ns() % 10**7),
            "STUB_WORKER_BIN": str(tmp_path / "worker_bin"),
            "STAND_IN_LOG": str(tmp_path / "starts"),
            "MFL_JAX_POLL_S": "0.02",
            "TMPDIR": str(tmp_path),
        }

    def start(self, script, *words, **environment):
        """Starts a script in a process group of its own, as a terminal does."""
        return subprocess.Popen(
            ["bash", self.root / "launch" / script, *words], cwd=self.root, env=self.environment | environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip

    def call(self, script, *words, **environment):
        """Runs a script; returns its exit status and what it said."""
        process = self.start(script, *words, **environment)
        said, errors = process.communicate(timeout=120)
        return process.returncode, said, errors

    def tpu(self, *words, before=(), **environment):
        """Runs tpu_vm.sh with flags of its own (`before`) and of the run."""
        return self.call("tpu_vm.sh", "--name=t", "--zone=z", "--type=v5litepod-16", *before, "--", *words, **environment)

    def starts(self):
        file = self.tmp / "starts"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def verbs(self):
        """The changes that gcloud was asked for, in order."""
        calls = [json.loads(line) for line in (self.cloud / "calls").read_text().splitlines()]
        return [f"{group} {verb}" for group, verb, *_ in calls if verb != "describe"]

    def slices(self):
        return list((self.cloud / "slices").glob("*"))


@pytest.fixture
def place(tmp_path):
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        # A suite in the background ignores SIGINT, and so would the scripts, for good.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    return Place(tmp_path)


def wait_for(file, text):
    limit = time.monotonic() + 60
    while not (file.exists() and file.read_text() == text):
        assert time.monotonic() < limit, f"{file} never was {text}"
        time.sleep(0.02)


# What is written


def test_shellcheck_finds_nothing():
    shellcheck = shutil.which("shellcheck", path=f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}")
    if not shellcheck:
        pytest.skip("no shellcheck here")
    done = subprocess.run(
        [shellcheck, "--external-sources", "--source-path=SCRIPTDIR", "--shell=bash", *SCRIPTS], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("script", ["tpu_vm.sh", "slurm.sh", "gpu.sh"])
def test_help_lists_every_flag(place, script):
    status, said, _ = place.call(script, "--help")
    flags = re.findall(r"^ +(--[a-z_]+)[=)]", (ROOT / "launch" / script).read_text(), re.MULTILINE)
    assert status == 0 and len(flags) > 3
    assert [flag for flag in flags if flag not in said and flag != "--help"] == []


TPU = ["--name=t", "--zone=us-west4-a", "--type=v5litepod-16"]
RUN = ["--", "--config=configs/proposed.py"]


@pytest.mark.parametrize(
    ("expected", "script", "words"),
    [
        ("tpu_vm", "tpu_vm.sh", [*TPU, "--fetch=out", *RUN]),
        (
            "tpu_vm_queued",
            "tpu_vm.sh",
            [
                *TPU,
                "--queued",
                "--spot",
                "--project=p",
                "--data=a b",
                "--module=mfl_jax.experiment",
                *RUN,
                *ODD,
                "--workdir=gs://b/x",
            ],
        ),
        ("tpu_vm_keep", "tpu_vm.sh", [*TPU, "--keep", "--version=v", "--fetch=out", *RUN, "--workdir", "/mnt/x"]),
        ("slurm", "slurm.sh", ["--nodes=2", "--gpus=8", "--cpus=16", "--port=5000", "--sbatch=--partition=a", *RUN, *ODD]),
        ("slurm_seeds", "slurm.sh", ["--seeds=0-9", "--at_once=4", "--time=4:00:00", *RUN, "--workdir=runs/all of them"]),
        ("slurm_list", "slurm.sh", ["--gpus=0", f"--list={HERE}/flags.list", *RUN, "--workdir=runs/x"]),
        ("gpu", "gpu.sh", RUN),
        ("gpu_deterministic", "gpu.sh", ["--deterministic", "--module=mfl_jax.experiment", *RUN, *ODD]),
    ],
)
def test_a_dry_run_prints_what_was_recorded_and_runs_nothing(place, expected, script, words):
    status, said, errors = place.call(script, "--dry_run", *words)
    assert status == 0, errors
    assert said.replace(str(place.root), "ROOT") == (HERE / f"{expected}.txt").read_text()
    assert not (place.cloud / "calls").exists() and not place.starts() and not (place.root / ".venv").exists()


def test_a_printed_command_is_read_back_word_by_word(place):
    _, said, _ = place.call("tpu_vm.sh", "--dry_run", *TPU, *RUN, *ODD)
    (line,) = [line for line in said.splitlines() if "tpu_worker.sh run" in line]
    (command,) = [word.partition("=")[2] for word in shlex.split(line) if word.startswith("--command=")]
    assert shlex.split(command)[2:] == ["mfl_jax.main", *RUN[1:], *ODD]


@pytest.mark.parametrize(
    ("script", "words", "expected"),
    [
        ("tpu_vm.sh", [], "--name=NAME is missing"),
        ("tpu_vm.sh", ["--name=t"], "--zone=ZONE is missing"),
        ("tpu_vm.sh", ["--name=t", "--zone=z"], "--type=TYPE is missing"),
        ("tpu_vm.sh", TPU, "put the flags of mfl_jax.main behind --"),
        ("tpu_vm.sh", [*TPU, "--config=x"], "--config=x is no flag of launch/tpu_vm.sh"),
        ("tpu_vm.sh", [*TPU[:2], "--type=v9-8", *RUN], "--type=v9-8: no runtime is known for it; give --version=RUNTIME"),
        ("tpu_vm.sh", [*TPU, "--retries=x", *RUN], "--retries=x is no number"),
        ("tpu_vm.sh", [*TPU, "--data=nowhere", *RUN], "--data=nowhere is no folder"),
        ("slurm.sh", ["--config=x"], "--config=x is no flag of launch/slurm.sh"),
        ("slurm.sh", ["--nodes=two", *RUN], "--nodes=two is no number"),
        ("slurm.sh", ["--seeds=0-9", *RUN], "--seeds needs --workdir=DIR behind --"),
        ("slurm.sh", ["--seeds=a", *RUN], "--seeds=a: a range such as 0-9"),
        ("slurm.sh", ["--list=nowhere", *RUN], "--list=nowhere is no file"),
        ("slurm.sh", ["--list=/dev/null", *RUN, "--workdir=x"], "--list=/dev/null: no line of flags in it"),
        ("gpu.sh", [], "put the flags of mfl_jax.main behind --"),
        ("gpu.sh", ["--gpus=2", *RUN], "--gpus=2 is no flag of launch/gpu.sh"),
        ("tpu_worker.sh", ["sing"], "install, run or stop, not 'sing'"),
    ],
)
def test_a_wrong_flag_is_one_line(place, script, words, expected):
    status, said, errors = place.call(script, *words)
    assert status == 2 and said == "" and errors.startswith("error: ") and errors.count("\n") == 1
    assert expected in errors
    assert not (place.cloud / "calls").exists() and not (place.root / ".venv").exists()


# Cloud TPUs


def test_tpu_creates_copies_installs_runs_fetches_and_deletes(place):
    status, said, errors = place.tpu("--config=c", *ODD, "--workdir=runs/a b", before=[f"--fetch={place.tmp}/out"])
    assert status == 0, errors
    create, copy, ssh, fetch, delete = "tpu-vm create", "tpu-vm scp", "tpu-vm ssh", "tpu-vm scp", "tpu-vm delete"
    assert place.verbs() == [create, copy, ssh, ssh, fetch, delete]
    first, second = sorted(place.starts(), key=lambda start: start["JAX_PROCESS_ID"])
    assert first["argv"] == second["argv"] == ["mfl_jax.main", "--config=c", *ODD, "--workdir=runs/a b"]
    assert [pathlib.Path(start["cwd"]).name for start in (first, second)] == ["mfl_jax", "mfl_jax"]
    assert "[w-0] done\n" in said and "[w-1] done\n" in said
    assert (place.tmp / "out" / "a b" / "epoch").read_text() == "3"
    assert place.slices() == [] and list(place.tmp.glob("mfl_jax.*")) == []


def test_tpu_workers_have_the_tracked_files_the_data_and_the_extra(place):
    (place.tmp / "prepared").mkdir()
    (place.tmp / "prepared" / "clips").write_text("all of them")
    status, _, errors = place.tpu("--config=c", before=[f"--data={place.tmp}/prepared", "--keep"])
    assert status == 0, errors
    assert "t is kept, and billed until it is deleted: gcloud compute tpus tpu-vm delete t --zone=z --quiet" in errors
    for worker in range(2):
        home = place.cloud / "slices" / "t" / f"worker{worker}"
        copied = {path.name for path in (home / "mfl_jax").iterdir()}
        assert {"launch", "setup.cfg", "pyproject.toml"} <= copied and not {"untracked", "gone"} & copied
        assert (home / "mfl_jax" / "data" / "clips").read_text() == "all of them"
        assert (home / "pip").read_text().count("--editable") == 1
        assert f"--editable {home}/mfl_jax[tpu,gcs]" in (home / "pip").read_text()
    # The next call finds it, installs nothing again, and deletes it.
    status, _, errors = place.tpu("--config=c", "--epochs=4")
    assert status == 0, errors
    assert place.verbs().count("tpu-vm create") == 1 and place.verbs()[-1] == "tpu-vm delete" and place.slices() == []


def test_tpu_with_an_image_whose_python_is_too_old(place):
    status, _, errors = place.tpu("--config=c", before=["--keep"], STUB_OLD_IMAGE="1")
    assert status == 0, errors
    said = (place.cloud / "slices" / "t" / "worker0" / "pip").read_text().splitlines()
    assert "--user uv" in said[0] and said[1].endswith("mfl_jax[tpu,gcs]")


@pytest.mark.parametrize(
    ("fail", "environment", "words", "expected", "status"),
    [
        ({"tpu-vm create": [1]}, {}, [], "creating the slice ended with status 1\nerror: t could not be had", 1),
        ({"tpu-vm scp": [1]}, {}, [], "copying the checkout ended with status 1", 1),
        ({}, {"STUB_PIP": "3"}, [], "installing ended with status 1", 1),
        ({}, {}, ["--fail=2"], "the run ended with status 2", 2),
        ({}, {}, ["--fail=1"], "the run ended with status 1", 1),
    ],
)
def test_tpu_step_that_fails_is_named_and_the_slice_is_deleted(place, fail, environment, words, expected, status):
    (place.cloud / "plan.json").write_text(json.dumps({"fail": fail}))
    found, _, errors = place.tpu("--config=c", *words, **environment)
    assert found == status and expected in errors
    assert place.slices() == [] and place.verbs().count("tpu-vm create") == 1


def test_tpu_of_which_gcloud_cannot_say_whether_it_exists_is_left_alone(place):
    (place.cloud / "plan.json").write_text(json.dumps({"fail": {"tpu-vm describe": [1]}}))
    status, _, errors = place.tpu("--config=c")
    assert status == 2 and "planned to fail" in errors and "nothing was created" in errors
    assert place.verbs() == []


@pytest.mark.parametrize("kept", [False, True])
def test_tpu_results_that_cannot_be_fetched_keep_the_slice(place, kept):
    (place.cloud / "plan.json").write_text(json.dumps({"fail": {"tpu-vm scp": [0, 1]}}))
    words = ["--config=c", "--workdir=runs/x", *([] if kept else ["--fail=1"])]
    status, _, errors = place.tpu(*words, before=[f"--fetch={place.tmp}/out"])
    assert status == 1 and "runs/x could not be fetched" in errors
    assert bool(place.slices()) == kept and ("is kept, and billed" in errors) == kept


@pytest.mark.parametrize("queued", [False, True])
def test_tpu_that_is_preempted_is_made_anew_and_the_run_goes_on(place, queued):
    workdir = place.tmp / "bucket"
    (place.cloud / "plan.json").write_text(
        json.dumps({"preempt_at": f"{workdir}/epoch", "epoch": 2, "states": ["WAITING_FOR_RESOURCES", "PROVISIONING"] * queued})
    )
    words = ["--config=c", f"--workdir={workdir}", "--wait_after=2"]
    status, said, errors = place.tpu(*words, before=["--spot", *["--queued"] * queued])
    assert status == 0, errors
    kind = "queued-resources" if queued else "tpu-vm"
    once = [f"{kind} create", "tpu-vm scp", "tpu-vm ssh", "tpu-vm ssh", f"{kind} delete"]
    assert place.verbs() == once + once
    assert "t was cut off; trying again, 1 of 5" in errors
    assert "[w-1] begins after epoch 0\n" in said and "[w-1] begins after epoch 2\n" in said
    assert (workdir / "epoch").read_text() == "3" and len(place.starts()) == 4 and place.slices() == []


def test_tpu_run_is_not_tried_more_often_than_retries(place):
    workdir = place.tmp / "bucket"
    (place.cloud / "plan.json").write_text(json.dumps({"preempt_at": f"{workdir}/epoch", "epoch": 2}))
    status, _, errors = place.tpu("--config=c", f"--workdir={workdir}", "--wait_after=2", before=["--retries=0"])
    assert status == 255 and "--retries=0 allows no more" in errors and place.slices() == []


def test_tpu_connection_that_breaks_finds_the_run_again(place):
    workdir = place.tmp / "bucket"
    (place.cloud / "plan.json").write_text(json.dumps({"cut_at": f"{workdir}/epoch", "epoch": 2}))
    status, said, errors = place.tpu("--config=c", f"--workdir={workdir}", "--wait_after=2")
    assert status == 0, errors
    assert "the run ended with status 255" in errors and "[w-0] done\n" in said
    assert len(place.starts()) == 2, "the run was started twice"
    assert place.verbs().count("tpu-vm create") == 1 and place.verbs().count("tpu-vm scp") == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_tpu_that_is_interrupted_checkpoints_fetches_and_deletes(place, number):
    words = ["--name=t", "--zone=z", "--type=v4-8", f"--fetch={place.tmp}/out", "--", "--config=c", "--workdir=runs/x"]
    process = place.start("tpu_vm.sh", *words, "--wait_after=2")
    wait_for(place.cloud / "slices" / "t" / "worker0" / "mfl_jax" / "runs" / "x" / "epoch", "2")
    # Ctrl-C reaches all of a terminal, kill the script alone.
    os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number, errors
    assert "stopping the run on t" in errors
    assert place.verbs()[-3:] == ["tpu-vm ssh", "tpu-vm scp", "tpu-vm delete"] and place.slices() == []
    assert (place.tmp / "out" / "x" / "epoch").read_text() == "2"


def test_tpu_worker_does_not_mix_two_runs(place):
    environment = {"STUB_WORKER": "0", "PATH": f"{place.tmp}/worker_bin:{place.environment['PATH']}"}
    first = place.start("tpu_worker.sh", "run", "mfl_jax.main", "--wait_after=1", "--workdir=runs/x", **environment)
    wait_for(place.root / "runs" / "x" / "epoch", "1")
    status, _, errors = place.call("tpu_worker.sh", "run", "mfl_jax.main", "--workdir=runs/y", **environment)
    assert status == 2 and "another run goes on here" in errors and "--wait_after=1" in errors
    assert place.call("tpu_worker.sh", "stop", **environment)[0] == 0
    said, _ = first.communicate(timeout=60)
    assert first.returncode == 130 and said.endswith("[w-0] stopped with a checkpoint\n")
    assert place.call("tpu_worker.sh", "stop", **environment)[0] == 0
    assert len(place.starts()) == 1


# Slurm


def test_slurm_run_over_nodes_meets_at_a_port_of_its_job(place):
    status, _, errors = place.call("slurm.sh", "--nodes=3", "--cpus=4", "--", "--config=c", *ODD)
    assert status == 0, errors
    starts = place.starts()
    assert sorted(start["JAX_PROCESS_ID"] for start in starts) == ["0", "1", "2"]
    port = 61440 + int(place.environment["STUB_JOB"]) % 4096
    assert {(start["JAX_COORDINATOR_ADDRESS"], start["JAX_NUM_PROCESSES"]) for start in starts} == {(f"node1:{port}", "3")}
    assert all(start["argv"] == ["mfl_jax.main", "--config=c", *ODD] for start in starts)
    assert all(start["cwd"] == str(place.root) for start in starts)
    assert json.loads((place.slurm / "steps").read_text())["cpus-per-task"] == "4"
    assert (place.home / "pip").read_text().count("--editable") == 1 and "[cuda]" in (place.home / "pip").read_text()


def test_slurm_job_that_reaches_its_time_limit_goes_on(place):
    workdir = place.tmp / "runs"
    (place.slurm / "plan.json").write_text(json.dumps({"stop_at": f"{workdir}/epoch", "epoch": 2}))
    status, said, errors = place.call("slurm.sh", "--nodes=2", "--", f"--workdir={workdir}", "--wait_after=2")
    assert status == 0, errors
    assert "queued again, 1 of 20" in errors and said.count("begins after epoch 2") == 2
    assert (workdir / "epoch").read_text() == "3" and len(place.starts()) == 4
    assert len({start["JAX_COORDINATOR_ADDRESS"] for start in place.starts()}) == 1


@pytest.mark.parametrize(("words", "expected"), [(["--fail=2"], 2), (["--fail=1"], 1), (["--fail=130"], 130)])
def test_slurm_run_that_fails_is_not_queued_again(place, words, expected):
    retries = ["--retries=0"] if expected == 130 else []
    status, _, errors = place.call("slurm.sh", *retries, "--", *words)
    assert status == expected and len(place.starts()) == 1
    assert ("--retries=0 allows no more" in errors) == (expected == 130)


def test_slurm_array_has_a_run_a_seed(place):
    status, _, errors = place.call(
        "slurm.sh", "--seeds=3-5", "--gpus=0", "--", "--config=c", f"--workdir={place.tmp}/all of them"
    )
    assert status == 0, errors
    for seed, start in zip((3, 4, 5), place.starts(), strict=True):
        assert start["argv"][-2:] == [f"--config.seed={seed}", f"--workdir={place.tmp}/all of them/seed{seed}"]
        assert start["JAX_COORDINATOR_ADDRESS"] is None and start["SLURM_ARRAY_TASK_ID"] == str(seed)
        assert (place.tmp / "all of them" / f"seed{seed}" / "epoch").read_text() == "3"
    assert "[cuda]" not in (place.home / "pip").read_text()


def test_slurm_array_has_a_run_a_line_of_flags(place):
    status, _, errors = place.call("slurm.sh", f"--list={HERE}/flags.list", "--", "--config=c", f"--workdir={place.tmp}/x")
    assert status == 0, errors
    assert [start["argv"][3:-1] for start in place.starts()] == [
        ["--config.alpha=0.001"],
        ["--config.alpha=0.1", "--config.note=a louder scene, it's said"],
        ["--config.alpha=1"],
    ]
    assert [start["argv"][-1] for start in place.starts()] == [f"--workdir={place.tmp}/x/job{number}" for number in range(3)]


def test_slurm_within_an_allocation_runs_there(place):
    allocation = {"SLURM_JOB_ID": "77", "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_NODELIST": "node[4-5]"}
    status, said, _ = place.call("slurm.sh", "--dry_run", "--port=5000", "--", "--config=c", **allocation)
    assert status == 0 and said.startswith("srun --nodes=2 --ntasks=2 --ntasks-per-node=1 ") and "node4:5000" in said
    allocation["SLURM_JOB_ID"] = place.environment["STUB_JOB"]
    status, _, errors = place.call("slurm.sh", "--", "--config=c", **allocation)
    assert status == 0 and len(place.starts()) == 2, errors
    status, _, errors = place.call("slurm.sh", "--seeds=0-1", "--", "--workdir=x", **allocation)
    assert status == 2 and "outside an allocation" in errors


# One node with GPUs

SMI = """#!/bin/sh
case "$1" in
  --list-gpus) for gpu in 0 1; do echo "GPU $gpu: NVIDIA H100 (UUID: GPU-$gpu)"; done ;;
  --query-gpu=driver_version) echo 570.10; echo 570.10 ;;
esac
"""


@pytest.mark.parametrize(
    ("flags", "environment", "expected"),
    [
        ([], {"STUB_GPUS": "2"}, None),
        (["--deterministic"], {"STUB_GPUS": "2"}, "--xla_gpu_deterministic_ops=true"),
        (
            ["--deterministic"],
            {"STUB_GPUS": "1", "CUDA_VISIBLE_DEVICES": "1", "XLA_FLAGS": "--a"},
            "--a --xla_gpu_deterministic_ops=true",
        ),
    ],
)
def test_gpu_runs_where_jax_sees_all_of_them(place, flags, environment, expected):
    program(place.bin / "nvidia-smi", SMI)
    status, said, errors = place.call("gpu.sh", *flags, "--", "--config=c", *ODD, **environment)
    assert status == 0 and "done" in said, errors
    (start,) = place.starts()
    assert start["argv"] == ["mfl_jax.main", "--config=c", *ODD] and start["XLA_FLAGS"] == expected
    assert "[cuda]" in (place.home / "pip").read_text()


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"STUB_GPUS": "1"}, "jax sees 1 GPUs of 2"),
        ({"STUB_GPUS": "0"}, "(here: 570.10)"),
        ({"STUB_GPUS": "2", "CUDA_VISIBLE_DEVICES": ""}, "CUDA_VISIBLE_DEVICES is empty"),
        ({"STUB_GPUS": "2", "JAX_PLATFORMS": "cpu"}, "JAX_PLATFORMS=cpu hides the GPUs"),
    ],
)
def test_gpu_that_jax_does_not_see_is_an_error(place, environment, expected):
    program(place.bin / "nvidia-smi", SMI)
    status, _, errors = place.call("gpu.sh", "--", "--config=c", **environment)
    assert status == 2 and expected in errors and place.starts() == []


def test_gpu_script_without_a_driver_says_so(place):
    if shutil.which("nvidia-smi", path=place.environment["PATH"]):
        pytest.skip("there is a driver here")
    status, _, errors = place.call("gpu.sh", "--", "--config=c")
    assert status == 2 and "no nvidia-smi here" in errors and not (place.root / ".venv").exists()


# Kubernetes


def jobset(name):
    (document,) = yaml.safe_load_all((ROOT / "launch" / name).read_text())
    (job,) = document["spec"]["replicatedJobs"]
    pod = job["template"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    return document, job, pod, container


def resolved(container, index):
    """The environment of the pod of an index, as Kubernetes makes it."""
    found = {}
    for entry in container["env"]:
        if "value" in entry:
            assert isinstance(entry["value"], str)
            found[entry["name"]] = re.sub(r"\$\((\w+)\)", lambda match: found[match[1]], entry["value"])
        else:
            path = entry["valueFrom"]["fieldRef"]["fieldPath"]
            assert path == "metadata.annotations['batch.kubernetes.io/job-completion-index']"
            found[entry["name"]] = str(index)
    return found


@pytest.mark.parametrize("name", ["jobset.yaml", "jobset_tpu.yaml"])
def test_jobset_agrees_with_itself(name):
    document, job, pod, container = jobset(name)
    spec = job["template"]["spec"]
    assert (document["apiVersion"], document["kind"], job["replicas"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet", 1)
    environment = resolved(container, 0)
    assert spec["completionMode"] == "Indexed"
    assert spec["parallelism"] == spec["completions"] == int(environment["JAX_NUM_PROCESSES"])
    own = document["metadata"]["name"]
    host, _, port = environment["JAX_COORDINATOR_ADDRESS"].partition(":")
    assert host == f"{own}-{job['name']}-0-0.{own}" and document["spec"]["network"]["enableDNSHostnames"] is True
    assert [entry["containerPort"] for entry in container["ports"]] == [int(port)]
    assert document["spec"]["failurePolicy"]["maxRestarts"] > 0 and spec["backoffLimit"] == 0
    assert pod["restartPolicy"] == "Never" and pod["terminationGracePeriodSeconds"] == 30
    (rule,) = spec["podFailurePolicy"]["rules"]
    assert rule["onExitCodes"]["containerName"] == container["name"]
    # The controller refuses other names.
    assert all(
        re.fullmatch(r"[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?", rule["name"])
        for rule in document["spec"]["failurePolicy"]["rules"]
    )
    mounted, volumes = container.get("volumeMounts", []), {volume["name"] for volume in pod.get("volumes", [])}
    assert {mount["name"] for mount in mounted} == volumes
    (workdir,) = [word.partition("=")[2] for word in container["args"] if word.startswith("--workdir=")]
    assert workdir.startswith("gs://") or any(workdir.startswith(mount["mountPath"] + "/") for mount in mounted)


@pytest.mark.parametrize("name", ["jobset.yaml", "jobset_tpu.yaml"])
def test_jobset_hosts_run_as_one(place, name):
    _, job, _, container = jobset(name)
    program(place.bin / "python", (place.tmp / "worker_bin" / "python3").read_text())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    pods = []
    for index in range(job["template"]["spec"]["parallelism"]):
        environment = resolved(container, index)
        environment["JAX_COORDINATOR_ADDRESS"] = environment["JAX_COORDINATOR_ADDRESS"].replace("61440", port)
        words = [word.replace("/shared/", f"{place.tmp}/").replace("gs://BUCKET/", f"{place.tmp}/") for word in container["args"]]
        pods.append(subprocess.Popen([*container["command"], *words], env=place.environment | environment, cwd=place.root))
    assert [pod.wait(timeout=60) for pod in pods] == [0] * len(pods)
    assert (place.tmp / "runs" / "proposed" / "epoch").read_text() == "3"
    assert all(start["argv"][0] == "mfl_jax.main" for start in place.starts()) and len(place.starts()) == len(pods)


# The real program


def test_tpu_script_trains_over_two_workers(tmp_path):
    """The whole way with mfl_jax itself, on CPUs."""
    place = Place(tmp_path, ("launch", "setup.cfg", "pyproject.toml", "mfl_jax", "configs", "datasets"))
    recordings = write_recordings(tmp_path / "recordings", development=4, evaluation=2)
    words = [word.replace(f"{ROOT}/", "") for word in small_flags(tmp_path, epochs=1, batch_size=4, devices=0)]
    words += [f"--config.manual_dir={recordings}", "--config.accelerator=cpu", f"--workdir={tmp_path}/run"]
    cache = {name: value for name, value in os.environ.items() if name.startswith(("JAX_COMPILATION", "JAX_PERSISTENT"))}
    status, said, errors = place.tpu(*words, before=[f"--fetch={tmp_path}/out"], STUB_REAL="1", **cache)
    assert status == 0, said + errors
    results = json.loads((tmp_path / "out" / "run" / "results.json").read_text())
    assert 0 <= results["event"]["micro_f"] <= 100 and results["system"] == "proposed"
    assert place.slices() == []
