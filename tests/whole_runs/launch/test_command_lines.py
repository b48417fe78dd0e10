"""All launch scripts: shellcheck, --help, recorded dry runs, quoting, and errors in flags."""

import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

import pytest

from support import ROOT
from support.launching import ODD_FLAGS, STUBS

SCRIPTS = sorted((ROOT / "launch").glob("*.sh"))
TPU = ["--name=t", "--zone=us-west4-a", "--type=v5litepod-16"]
RUN = ["--", "--config=configs/proposed.py"]
QUEUED = ["--queued", "--spot", "--project=p", "--data=a b", "--module=mfl_jax.experiment"]


def test_shellcheck_finds_nothing():
    shellcheck = shutil.which("shellcheck", path=f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}")
    if not shellcheck:
        pytest.skip("shellcheck is not installed")
    options = ["--external-sources", "--source-path=SCRIPTDIR", "--shell=bash"]
    process = subprocess.run([shellcheck, *options, *SCRIPTS], capture_output=True, text=True)
    assert process.returncode == 0, process.stdout


@pytest.mark.parametrize("script", ["tpu_vm.sh", "slurm.sh", "gpu.sh"])
def test_help_lists_every_flag(read_only_sandbox, script):
    status, output, _ = read_only_sandbox.call(script, "--help")
    flags = re.findall(r"^ +(--[a-z_]+)[=)]", (ROOT / "launch" / script).read_text(), re.MULTILINE)
    assert status == 0 and len(flags) > 3
    assert [flag for flag in flags if flag not in output and flag != "--help"] == []


@pytest.mark.parametrize(
    ("recording", "script", "words"),
    [
        ("tpu_vm", "tpu_vm.sh", [*TPU, "--fetch=out", *RUN]),
        ("tpu_vm_queued", "tpu_vm.sh", [*TPU, *QUEUED, *RUN, *ODD_FLAGS, "--workdir=gs://b/x"]),
        ("tpu_vm_keep", "tpu_vm.sh", [*TPU, "--keep", "--version=v", "--fetch=out", *RUN, "--workdir", "/mnt/x"]),
        ("slurm", "slurm.sh", ["--nodes=2", "--gpus=8", "--cpus=16", "--port=5000", "--sbatch=--partition=a", *RUN, *ODD_FLAGS]),
        ("slurm_seeds", "slurm.sh", ["--seeds=0-9", "--at_once=4", "--time=4:00:00", *RUN, "--workdir=runs/all of them"]),
        ("slurm_list", "slurm.sh", ["--gpus=0", f"--list={STUBS}/flags.list", *RUN, "--workdir=runs/x"]),
        ("gpu", "gpu.sh", RUN),
        ("gpu_deterministic", "gpu.sh", ["--deterministic", "--module=mfl_jax.experiment", *RUN, *ODD_FLAGS]),
    ],
)
def test_a_dry_run_prints_the_recorded_commands_and_runs_nothing(read_only_sandbox, recording, script, words):
    status, output, errors = read_only_sandbox.call(script, "--dry_run", *words)
    assert status == 0, errors
    assert output.replace(str(read_only_sandbox.root), "ROOT") == (STUBS / f"{recording}.txt").read_text()
    assert read_only_sandbox.ran_nothing()


def test_a_shell_reads_the_words_of_a_printed_command_back(read_only_sandbox):
    _, output, _ = read_only_sandbox.call("tpu_vm.sh", "--dry_run", *TPU, *RUN, *ODD_FLAGS)
    (line,) = [line for line in output.splitlines() if "tpu_worker.sh run" in line]
    (command,) = [word.partition("=")[2] for word in shlex.split(line) if word.startswith("--command=")]
    assert shlex.split(command)[2:] == ["mfl_jax.main", *RUN[1:], *ODD_FLAGS]


@pytest.mark.parametrize(
    ("script", "words", "message"),
    [
        ("tpu_vm.sh", [], "--name=NAME is missing"),
        ("tpu_vm.sh", ["--name=t"], "--zone=ZONE is missing"),
        ("tpu_vm.sh", ["--name=t", "--zone=z"], "--type=TYPE is missing"),
        ("tpu_vm.sh", TPU, "put the flags of mfl_jax.main after --"),
        ("tpu_vm.sh", [*TPU, "--config=x"], "unknown flag --config=x (--help lists the flags of launch/tpu_vm.sh)"),
        ("tpu_vm.sh", [*TPU[:2], "--type=v9-8", *RUN], "--type=v9-8: no known runtime version; set --version=RUNTIME"),
        ("tpu_vm.sh", [*TPU, "--retries=x", *RUN], "--retries=x: must be a number"),
        ("tpu_vm.sh", [*TPU, "--data=nowhere", *RUN], "--data=nowhere: not a folder"),
        ("slurm.sh", ["--config=x"], "unknown flag --config=x (--help lists the flags of launch/slurm.sh)"),
        ("slurm.sh", ["--nodes=two", *RUN], "--nodes=two: must be a number"),
        ("slurm.sh", ["--seeds=0-9", *RUN], "--seeds needs --workdir=DIR after --"),
        ("slurm.sh", ["--seeds=a", *RUN], "--seeds=a: must be a range such as 0-9"),
        ("slurm.sh", ["--list=nowhere", *RUN], "--list=nowhere: cannot read the file"),
        ("slurm.sh", ["--list=/dev/null", *RUN, "--workdir=x"], "--list=/dev/null: the file holds no flags"),
        ("gpu.sh", [], "put the flags of mfl_jax.main after --"),
        ("gpu.sh", ["--gpus=2", *RUN], "unknown flag --gpus=2 (--help lists the flags of launch/gpu.sh)"),
        ("tpu_worker.sh", ["sing"], "unknown command 'sing': must be install, run or stop"),
    ],
)
def test_a_wrong_flag_is_reported_in_one_line(read_only_sandbox, script, words, message):
    status, output, errors = read_only_sandbox.call(script, *words)
    assert status == 2 and output == "" and errors.startswith("error: ") and errors.count("\n") == 1
    assert message in errors
    assert read_only_sandbox.ran_nothing()
