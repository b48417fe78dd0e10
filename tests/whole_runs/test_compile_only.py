"""Programs for TPUs and GPUs that this machine lacks: the counts of their text, errors, and small networks where wheels are."""

import importlib.machinery
import json
import os
import subprocess
import sys

import pytest

from benchmarks.compile_only import program_text
from support import ROOT

PROGRAM = """HloModule jit_step

%body (p: (s32[], f32[10,4])) -> (s32[], f32[10,4]) {
  %p = (s32[], f32[10,4]{1,0}) parameter(0)
  %x = f32[10,4]{1,0} get-tuple-element(%p), index=1
  %i = s32[] get-tuple-element(%p), index=0
  %y = f32[10,4]{1,0} fusion(%x), kind=kLoop
  ROOT %t = (s32[], f32[10,4]{1,0}) tuple(%i, %y)
}

ENTRY %main (a: f32[10,4], b: bf16[8]) -> f32[10,4] {
  %a = f32[10,4]{1,0} parameter(0)
  %b = bf16[8]{0:T(8)S(1)} parameter(1)
  %c = f32[10,4]{1,0} fusion(%a, %b), kind=kLoop
  %s = (f32[10,4]{1,0:S(1)}, f32[10,4]{1,0}, u32[]) copy-start(%c)
  %d = f32[10,4]{1,0:S(1)} copy-done(%s)
  %r = f32[4]{0} all-reduce-start(%d), replica_groups={}
  %e = f32[4]{0} all-reduce-done(%r)
  %w = (s32[], f32[10,4]{1,0}) while(%t), condition=%cond, body=%body, backend_config={"known_trip_count":{"n":"500"}}
  ROOT %o = f32[10,4]{1,0} get-tuple-element(%w), index=1
}
"""


def test_kernels_bytes_and_sums_are_counted():
    array = 10 * 4 * 4
    counts = program_text.count(PROGRAM)
    assert counts["kernels"] == 3 + 500 and counts["all_reduces"] == 1
    # The fusion reads and writes an array, and b is on the chip; the copy reads it once; the sum writes four values.
    assert counts["bytes"] == 2 * array + array // 2 + 2 + 4 * 4
    assert counts["loop_bytes"] == 500 * 2 * array


# Compilers that are not in the environment of the suite: with libtpu there, its programs would look for a TPU.
COMPILERS = [folder for folder in [os.environ.get("MFL_JAX_LIBTPU")] if folder]


def compile_small(*flags):
    command = [sys.executable, "-m", "benchmarks.compile_only", "--batch_size=4", "--channels=4", "--members=2", *flags]
    path = os.pathsep.join([*COMPILERS, os.environ.get("PYTHONPATH", "")])
    return subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--targets=v3:2x2", "flag --targets=v3:2x2: must be h100, or one of v4, v5e, v5p, v6e with its chips, such as v5e:2x2"),
        ("--steps=test", "flag --steps: test not among train, eval, member, predict"),
    ],
)
def test_a_wrong_flag_is_reported_in_one_line(flag, message):
    process = compile_small(flag)
    assert (process.returncode, process.stderr) == (2, f"error: {message}\n")


def compile_or_skip(package, *flags):
    """Compiles a small network for a target whose compiler is in a package; returns the results."""
    if not importlib.machinery.PathFinder.find_spec(package, [*COMPILERS, *sys.path]):
        pytest.skip(f"no {package}")
    process = compile_small(*flags)
    assert process.returncode == 0, process.stderr
    entries = json.loads(process.stdout)["results"]
    train = entries[0]
    assert train["gb_hbm"] > 0 and train["gb_temporary"] > 0 and train["all_reduces"] == 0
    return entries


@pytest.mark.ci_only
def test_a_small_network_compiles_for_a_tpu():
    train, on_slice = compile_or_skip("libtpu", "--targets=v5e:2x2", "--steps=train")  # each step takes a minute
    assert train["devices"] == 1 and train["kernels"] is None and train["gb_loops"] > 0
    assert on_slice["devices"] == 4 and on_slice["all_reduces"] > 0


@pytest.mark.ci_only
def test_a_small_network_compiles_for_a_gpu():
    entries = compile_or_skip("jax_cuda13_plugin", "--targets=h100")
    assert [(entry["step"], entry["devices"]) for entry in entries] == [
        (step, 1) for step in ("train", "eval", "member", "predict")
    ]
    # No loop: the recurrence is one kernel per pass.
    assert 50 < entries[0]["kernels"] < 1000 and entries[0]["gb_loops"] == 0
