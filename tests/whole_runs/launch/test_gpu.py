"""launch/gpu.sh, with a stub of nvidia-smi."""

import shutil

import pytest

from support.launching import ODD_FLAGS, write_program

NVIDIA_SMI = """#!/bin/sh
case "$1" in
  --list-gpus) for gpu in 0 1; do echo "GPU $gpu: NVIDIA H100 (UUID: GPU-$gpu)"; done ;;
  --query-gpu=driver_version) echo 570.10; echo 570.10 ;;
esac
"""


@pytest.fixture
def gpu_sandbox(sandbox):
    write_program(sandbox.bin / "nvidia-smi", NVIDIA_SMI)
    return sandbox


@pytest.mark.parametrize(
    ("flags", "environment", "xla_flags"),
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
def test_runs_when_jax_sees_all_gpus(gpu_sandbox, flags, environment, xla_flags):
    status, output, errors = gpu_sandbox.call("gpu.sh", *flags, "--", "--config=c", *ODD_FLAGS, **environment)
    assert status == 0 and "done" in output, errors
    (start,) = gpu_sandbox.starts()
    assert start["argv"] == ["mfl_jax.main", "--config=c", *ODD_FLAGS] and start["XLA_FLAGS"] == xla_flags
    assert "[cuda]" in (gpu_sandbox.home / "pip").read_text()


@pytest.mark.parametrize(
    ("environment", "messages"),
    [
        ({"STUB_GPUS": "1"}, ["jax sees 1 of 2 GPUs"]),
        ({"STUB_GPUS": "0"}, ["jax sees 0 of 2 GPUs", "(installed: 570.10)"]),
        ({"STUB_GPUS": "2", "CUDA_VISIBLE_DEVICES": ""}, ["CUDA_VISIBLE_DEVICES is empty"]),
        ({"STUB_GPUS": "2", "JAX_PLATFORMS": "cpu"}, ["JAX_PLATFORMS=cpu hides the GPUs"]),
    ],
)
def test_refuses_to_run_when_jax_misses_a_gpu(gpu_sandbox, environment, messages):
    status, _, errors = gpu_sandbox.call("gpu.sh", "--", "--config=c", **environment)
    assert status == 2 and all(message in errors for message in messages) and gpu_sandbox.starts() == []


def test_reports_a_missing_driver(read_only_sandbox):
    if shutil.which("nvidia-smi", path=read_only_sandbox.environment["PATH"]):
        pytest.skip("this machine has a driver")
    status, _, errors = read_only_sandbox.call("gpu.sh", "--", "--config=c")
    assert status == 2 and "nvidia-smi not found" in errors and read_only_sandbox.ran_nothing()
