"""Errors that the commands report in one line."""

import errno
import subprocess
import sys

import jax
import numpy as np
import pytest

from mfl_jax.runtime import commandline
from support import ROOT

DEVICE_FULL = "RESOURCE_EXHAUSTED: Out of memory while trying to allocate\n78564849592 bytes."


def run_failing(error, **options):
    """Reports an error of a command; returns its exit status."""

    def command():
        raise error

    with pytest.raises(SystemExit) as end:
        commandline._report_errors(command, **options)
    return end.value.code


@pytest.mark.parametrize(
    "error, reason",
    [
        (
            jax.errors.JaxRuntimeError(DEVICE_FULL),
            " (RESOURCE_EXHAUSTED: Out of memory while trying to allocate 78564849592 bytes.)",
        ),
        (jax.errors.JaxRuntimeError("INTERNAL: CUDA_ERROR_OUT_OF_MEMORY"), " (INTERNAL: CUDA_ERROR_OUT_OF_MEMORY)"),
        (MemoryError("std::bad_alloc"), " (std::bad_alloc)"),
        (MemoryError(), ""),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), " ([Errno 12] Cannot allocate memory)"),
    ],
)
def test_memory_that_runs_out_is_one_line_with_advice(capsys, error, reason):
    assert run_failing(error, less_memory="lower config.batch_size") == 2
    assert capsys.readouterr().err == f"error: out of memory; lower config.batch_size{reason}\n"


def test_numpy_runs_out_of_memory(capsys):
    def command():
        return np.empty(1 << 60, np.uint8)

    with pytest.raises(SystemExit):
        commandline._report_errors(command)
    assert capsys.readouterr().err.startswith("error: out of memory; close other programs, or use a device with more memory (")


@pytest.mark.parametrize("error", [jax.errors.JaxRuntimeError("INTERNAL: a bug"), RuntimeError(DEVICE_FULL), ValueError("x")])
def test_other_errors_keep_their_traceback(error):
    with pytest.raises(type(error)):
        commandline._report_errors(lambda: (_ for _ in ()).throw(error))


@pytest.mark.parametrize(
    "fields, advice",
    [
        ({"batch_size": 64, "channels": 128}, "lower config.batch_size or config.channels"),
        (
            {"members_at_once": 0, "batch_size": 64, "channels": 128},
            "lower config.members_at_once or config.batch_size or config.channels",
        ),
    ],
)
def test_the_advice_names_the_fields_of_the_config(capsys, monkeypatch, fields, advice):
    """Starts a command as its program does, up to where JAX would compute."""
    config = type("Config", (dict,), {"name": "x"})(fields)
    holders = commandline.Flags(*(type("Holder", (), {"value": value}) for value in (config, "runs/x")))
    monkeypatch.setattr(commandline.hosts, "define_flags", lambda: None)
    monkeypatch.setattr(commandline.hosts, "join_cluster", lambda: None)
    monkeypatch.setattr(commandline.app, "run", lambda main, flags_parser: main(["program"]))

    def command(config, workdir):
        raise jax.errors.JaxRuntimeError(DEVICE_FULL)

    with pytest.raises(SystemExit):
        commandline.run_with_config(command, holders)
    assert capsys.readouterr().err.startswith(f"error: out of memory; {advice} (RESOURCE_EXHAUSTED")


def test_a_command_prints_its_warnings():
    """In a process of its own, because absl sets the level of the root logger there."""
    code = """
from mfl_jax import errors
from mfl_jax.runtime import commandline
commandline.run_with_arguments(lambda arguments: errors.warn("a.wav: silent"))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "warning: a.wav: silent\n")
