"""The benchmark for accelerators: its pieces run on a bare machine, failures lose nothing, kernels get the right class."""

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
import types

import jax
import numpy as np
import pytest

from benchmarks.accelerator import (
    blocks,
    kernel_classes,
    noise_clips,
    pieces,
    processes,
    same_bits,
    schedule,
    setting,
    stand_ins,
    summary,
)
from benchmarks.accelerator.kernel_classes import Kernel
from mfl_jax.data import batching
from support import ROOT

pytestmark = pytest.mark.lightly_optimised

MISSING = (
    "librosa", "tensorflow_datasets", "grain", "array_record", "soundfile", "soxr", "tensorboardX", "pandas", "matplotlib",
    "threadpoolctl", "pooch", "PIL",
)  # fmt: skip
"""Packages that a bare machine lacks."""
BARE = f"""
import sys
sys.modules.update(dict.fromkeys({MISSING}))
"""


def run_python(code: str, limit_s: float = 60) -> list[dict]:
    return list(processes.run([sys.executable, "-c", code], limit_s, {}))


def test_figures_arrive_while_a_process_runs():
    code = "import time\nprint('{\"a\": 1}', flush=True)\nprint('noise', flush=True)\ntime.sleep(60)"
    figures = processes.run([sys.executable, "-c", code], 50, {})
    started = time.monotonic()
    assert next(figures) == {"a": 1}
    figures.close()
    assert time.monotonic() - started < 40


def test_a_failing_process_keeps_its_figures_and_says_why(capfd):
    assert run_python("print('{\"a\": 1}')\nimport sys\nsys.exit('first line\\nout of memory')") == [
        {"a": 1},
        {"error": "out of memory"},
    ]
    assert "first line" in capfd.readouterr().err
    assert run_python("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)") == [{"error": "ended with status -9"}]
    assert run_python("print('{\"a\": 2}')") == [{"a": 2}]


def test_a_process_left_behind_holds_nothing_up():
    started = time.monotonic()
    code = "import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\nprint('{}')"
    assert run_python(code, limit_s=50) == [{}]
    assert time.monotonic() - started < 40


def test_a_process_over_its_limit_ends_with_those_it_started(tmp_path):
    file = tmp_path / "child"
    code = (
        "import subprocess, sys, time\nprint('{\"a\": 1}', flush=True)\n"
        f"child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        f"open({str(file)!r}, 'w').write(str(child.pid))\ntime.sleep(60)"
    )
    assert run_python(code, limit_s=3) == [{"a": 1}, {"error": "over 3 s"}]
    if file.exists():  # not on a machine too busy to start it in time
        state = subprocess.run(["ps", "-o", "stat=", "-p", file.read_text()], capture_output=True, text=True).stdout
        assert not state or state.startswith("Z")


def run_fake_pieces(monkeypatch, fake: dict, stages: tuple, **options) -> tuple[list[dict], dict]:
    """Runs pieces whose processes print what `fake` maps their names to."""
    commands = []

    def run(command, limit_s, environment):
        commands.append((command[-2] if "--small" in command else command[-1], limit_s, dict(environment)))
        yield from fake[commands[-1][0]]

    monkeypatch.setattr(processes, "run", run)
    monkeypatch.setattr(pieces, "STAGES", stages)
    names = [name for stage in stages for name in stage]
    entries = list(schedule.run_pieces(names, **{"small": False, "in_process": False, "minutes": 6, **options}))
    for entry in entries:
        entry.pop("seconds")
    return entries, {name: (limit_s, environment) for name, limit_s, environment in commands}


def test_pieces_after_a_failed_one_run(monkeypatch):
    fake = {
        "circumstances": [{"piece": "circumstances", "platform": "gpu"}],
        "step_bfloat16": [{"piece": "training_step_bfloat16", "ms": 1.0}, {"error": "over 90 s"}],
        "kernels": [{"piece": "kernels", "total_ms": 2.0}],
        "gradients": [{"piece": "gradients_bfloat16"}, {"piece": "gradients_float32"}],
        "same_bits": [{"error": "RuntimeError: no"}],
    }
    stages = (("circumstances",), ("step_bfloat16",), ("kernels",), ("gradients", "same_bits"))
    monkeypatch.setenv("XLA_FLAGS", "--mine")
    entries, calls = run_fake_pieces(monkeypatch, fake, stages)
    assert entries == [
        {"piece": "circumstances", "platform": "gpu"},
        {"piece": "training_step_bfloat16", "ms": 1.0},
        {"piece": "step_bfloat16", "error": "over 90 s"},
        {"piece": "kernels", "total_ms": 2.0},
        {"piece": "gradients_bfloat16"},
        {"piece": "gradients_float32"},
        {"piece": "same_bits", "error": "RuntimeError: no"},
    ]
    assert calls["step_bfloat16"] == (90, {})
    assert calls["kernels"][1] == {"XLA_FLAGS": "--mine --xla_gpu_enable_command_buffer="}
    assert calls["same_bits"][1]["XLA_FLAGS"] == "--mine --xla_gpu_deterministic_ops=true"


def test_flags_for_gpus_stay_off_other_devices_and_small_limits_are_longer(monkeypatch):
    fake = {"circumstances": [{"piece": "circumstances", "platform": "tpu"}], "kernels": []}
    _, calls = run_fake_pieces(monkeypatch, fake, (("circumstances",), ("kernels",)), small=True, minutes=60)
    assert calls["kernels"] == (360, {})


def test_pieces_without_time_are_skipped(monkeypatch):
    entries, calls = run_fake_pieces(monkeypatch, {}, (("circumstances",), ("kernels",)), minutes=0.1)
    assert entries == [{"piece": name, "skipped": "the 0.1 minutes are over"} for name in ("circumstances", "kernels")]
    assert not calls
    fake = {"circumstances": [], "kernels": []}
    _, calls = run_fake_pieces(monkeypatch, fake, (("circumstances",), ("kernels",)), minutes=0.5)
    assert all(limit_s <= 30 for limit_s, _ in calls.values())


def test_every_piece_has_a_turn_and_the_important_ones_come_first():
    ordered = [name for stage in pieces.STAGES for name in stage]
    assert sorted([*ordered, "digest"]) == sorted(pieces.PIECES)
    assert ordered[:2] == ["circumstances", "step_bfloat16"]


PROGRAM = """HloModule jit_step, is_scheduled=true

%body.1 (p: (f32[2])) -> (f32[2]) {
  %p = (f32[2]{0}) parameter(0)
  %fusion.7 = f32[2]{0} fusion(%p), kind=kLoop, calls=%x, metadata={op_name="jit(step)/jvp(recurrence)/while/body/tanh"}
}

%fused.2 (p.1: f32[2]) -> f32[2] {
  %p.1 = f32[2]{0} parameter(0)
  %a = f32[2]{0} add(%p.1, %p.1), metadata={op_name="jit(step)/transpose(jvp(first_block))/add"}
  %b = f32[2]{0} multiply(%a, %p.1), metadata={op_name="jit(step)/transpose(jvp(first_block))/mul"}
  ROOT %c = f32[2]{0} negate(%b), metadata={op_name="jit(step)/neg"}
}

ENTRY %main.9 (Arg_0: f32[2]) -> (f32[2], s32[]) {
  %Arg_0 = f32[2]{0} parameter(0)
  %while.3 = (f32[2]{0}) while(%Arg_0), body=%body.1, metadata={op_name="jit(step)/jvp(recurrence)/while"}
  %loop_fusion.2 = f32[2]{0} fusion(%Arg_0), kind=kLoop, calls=%fused.2
  %cudnn-conv.6 = (f32[2]{0}, u8[0]{0}) custom-call(%Arg_0), metadata={op_name="jit(step)/jvp()/conv_general_dilated"}
  %dot.4 = f32[2]{0} dot(%Arg_0), metadata={op_name="jit(step)/jvp(conv3x3)/dot_general"}
  %copy.8 = f32[2]{0} copy(%Arg_0)
  ROOT %add.5 = f32[2]{0} add(%Arg_0, %Arg_0), metadata={op_name="jit(step)/add"}
}
"""
"""As XLA prints programs, shortened by hand."""


def test_operations_get_the_class_of_their_scope():
    operations = kernel_classes.classify_operations(PROGRAM)
    assert operations["fusion.7"] == "recurrence"
    assert operations["while.3"] is None
    assert operations["loop_fusion.2"] == "first_block"  # two of the three operations in it
    assert operations["cudnn-conv.6"] == operations["dot.4"] == "other_convolutions"
    assert operations["copy.8"] == operations["add.5"] == "rest"


@pytest.mark.parametrize(
    ("name", "operation", "expected"),
    [
        ("sm90_xmma_fprop_implicit_gemm", "cudnn-conv.6", ("other_convolutions", True)),
        ("loop_fusion_2", "", ("first_block", True)),
        ("loop_fusion.2", "", ("first_block", True)),
        ("while.3", "while.3", (None, True)),
        ("_backward_kernel", "", ("recurrence", False)),
        ("sm90_xmma_dgrad_implicit_gemm", "", ("other_convolutions", False)),
        ("MemcpyD2D", "", ("rest", False)),
    ],
)
def test_kernels_get_the_class_of_their_operation(name, operation, expected):
    operations = kernel_classes.classify_operations(PROGRAM)
    assert kernel_classes.classify_kernel(Kernel(name, operation, 1.0), operations) == expected


def fake_profile(**planes):
    """A profile of planes {name: {line: [(event, operation)]}}; every event takes 5 ns."""

    def event(name, operation):
        return types.SimpleNamespace(name=name, duration_ns=5.0, stats=[("hlo_op", operation)] if operation else [])

    def line(name, events):
        return types.SimpleNamespace(name=name, events=[event(*entry) for entry in events])

    return types.SimpleNamespace(
        planes=[
            types.SimpleNamespace(name=name.replace("_", ":"), lines=[line(*entry) for entry in lines.items()])
            for name, lines in planes.items()
        ]
    )


def test_kernels_are_read_from_the_lines_of_the_device():
    host = {"tf_XLAEigen/1": [("dot.4", "dot.4"), ("end: dot.4", "dot.4"), ("ThunkExecutor::Execute", "")]}
    gpu = {"Stream #13(Compute)": [("loop_fusion_2", "loop_fusion.2"), ("MemcpyD2D", "")], "XLA Ops": [("dot.4", "dot.4")]}
    tpu = {"XLA Modules": [("jit_step", "")], "XLA Ops": [("%add.5 = f32[2] add(f32[2] %p)", "")]}
    assert kernel_classes.read_kernels(fake_profile(**{"/host_CPU": host})) == [Kernel("dot.4", "dot.4", 5.0)]
    read = kernel_classes.read_kernels(fake_profile(**{"/host_CPU": host, "/device_GPU_0": gpu}))
    assert read == [Kernel("loop_fusion_2", "loop_fusion.2", 5.0), Kernel("MemcpyD2D", "", 5.0)]
    assert kernel_classes.read_kernels(fake_profile(**{"/device_TPU_0": tpu})) == [Kernel("add.5", "", 5.0)]
    with pytest.raises(ValueError, match="no kernels, only /host:CPU python"):
        kernel_classes.read_kernels(fake_profile(**{"/host_CPU": {"python": [("step", "")]}}))


def test_comparison_and_projection():
    entries = [
        {"piece": "circumstances"},
        {"piece": "training_step_bfloat16", "ms": 4.0, "first_loss": 0.500},
        {"piece": "forward_bfloat16", "ms": 1.0},
        {"piece": "torch_training_step_eager", "ms": 10.0, "first_loss": 0.501},
        {"piece": "torch_training_step_compile", "ms": 6.0, "first_loss": 0.502},
        {"piece": "torch_compile_channels_last", "error": "over 100 s"},
        {"piece": "epoch_of_group", "members": 10, "epoch_s": 1.5, "seconds_besides_epochs": 30.0, "clips": 1004},
    ]
    step, losses, table = summary.derive(entries)
    assert step == {
        "piece": "training_step_bfloat16_against_torch", "ours_ms": 4.0, "best": "torch_training_step_compile", "best_ms": 6.0,
        "ratio": 1.5, "of_variants": 2,
    }  # fmt: skip
    assert losses["difference"] == pytest.approx(0.004) and losses["same"]
    assert table["groups"] == 4 and table["hours"] == pytest.approx(4 * (300 * 1.5 + 30) / 3600)
    entries[3]["first_loss"] = 0.6
    assert not summary.derive(entries)[1]["same"]
    assert summary.derive([{"piece": "training_step_bfloat16", "error": "x"}]) == []
    assert summary.make_table(entries).row_count == 7


def test_blocks_wait_once_each():
    calls = []
    size = setting.Setting(**{**vars(setting.SMALL), "blocks": 3, "steps": 4})
    times = blocks.measure(lambda: calls.append("step"), size, lambda _: calls.append("wait"))
    assert calls == ["step", "wait"] * blocks.WARM_UP + (["step"] * 4 + ["wait"]) * 3
    assert 0 < times["lowest_ms"] <= times["ms"] <= times["highest_ms"]


def test_stand_ins_read_the_batches_that_grain_reads(monkeypatch):
    clips = noise_clips.make(setting.SMALL).read("development")
    read = [list(batching.read_batches(clips, np.array([2, 0, 1]), 2))]
    monkeypatch.setitem(sys.modules, "grain", None)
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    stand_ins.install()
    assert stand_ins.installed() == ["grain", "tensorboardX"]
    read.append(list(batching.read_batches(clips, np.array([2, 0, 1]), 2)))
    jax.tree.map(np.testing.assert_array_equal, *read)
    assert [batch["clip_mask"].tolist() for batch in read[1]] == [[True, True], [True, False]]
    sys.modules["tensorboardX"].SummaryWriter("folder", purge_step=1).add_scalar("loss", 1.0, 1)


def test_stand_ins_leave_installed_packages_alone():
    stand_ins.install()
    assert stand_ins.installed() == []


def test_bits_are_compared(monkeypatch):
    digests = iter(["a", "a", "a", "b"])

    def run(command, **_):
        assert command[-2:] == ["digest", "--small"]
        return types.SimpleNamespace(returncode=0, stdout=json.dumps({"digest": next(digests)}), stderr="")

    monkeypatch.setattr(subprocess, "run", run)
    assert [next(same_bits.measure(setting.SMALL))["equal"] for _ in range(2)] == [True, False]
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: types.SimpleNamespace(returncode=1, stderr="a\nno memory\n"))
    with pytest.raises(RuntimeError, match=r"^no memory$"):
        next(same_bits.measure(setting.SMALL))


def test_all_modules_open_on_a_bare_machine():
    modules = [f"benchmarks.accelerator.{piece.module}" for piece in pieces.PIECES.values()]
    code = BARE + f"import importlib\nfor name in {sorted(set(modules))}:\n    importlib.import_module(name)"
    process = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr


EXPECTED = [
    "circumstances", "training_step_bfloat16", "forward_bfloat16", "training_step_float32", "epoch_of_main", "members_at_once",
    "epoch_of_group", "kernels", "gradients_bfloat16", "gradients_float32", "torch_training_step_eager",
]  # fmt: skip


def read_lines(process: subprocess.CompletedProcess) -> dict[str, dict]:
    assert process.returncode == 0, process.stderr + process.stdout
    entries = [json.loads(line) for line in process.stdout.splitlines()]
    assert entries[0]["piece"] == "circumstances" and entries[0]["versions"]["jax"] == jax.__version__
    for entry in entries:
        if "ms_per_step" in entry:
            assert entry["overhead"] == pytest.approx(entry["ms_per_step"] / entry["bare_ms_per_step"] - 1, abs=1e-3)
    return {entry["piece"]: entry for entry in entries}


@pytest.mark.ci_only
def test_pieces_run_on_a_bare_machine():
    """All but those of the test below."""
    names = "step_bfloat16,step_float32,torch_eager,epoch,group,kernels,gradients"
    code = BARE + (
        f"import runpy\nsys.argv = ['benchmarks.accelerator', '--small', '--in_process', '--pieces={names}']\n"
        "runpy.run_module('benchmarks.accelerator', run_name='__main__')"
    )
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "1", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}  # compiles in half the time
    process = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, env=environment)
    entries = read_lines(process)
    assert [name for name in entries if name in EXPECTED] == EXPECTED
    assert entries["epoch_of_group"]["stand_ins"] == entries["epoch_of_main"]["stand_ins"] == ["grain", "tensorboardX"]
    assert entries["kernels"]["ms"]["recurrence"] > 0 and entries["kernels"]["ms"]["first_block"] > 0
    assert entries["kernels"]["unnamed_share"] == 0 and sum(entries["kernels"]["share"].values()) == pytest.approx(1, abs=1e-4)
    assert entries["gradients_float32"]["worst"] <= entries["gradients_bfloat16"]["worst"] < 0.5
    if "skipped" not in entries["torch_training_step_eager"]:
        assert entries["first_losses"]["same"] and entries["training_step_bfloat16_against_torch"]["ratio"] > 0
    else:
        assert entries["torch_training_step_eager"]["skipped"] == "torch is not installed"


@pytest.mark.ci_only
def test_pieces_run_in_processes_of_their_own():
    command = [sys.executable, "-m", "benchmarks.accelerator", "--small", "--minutes=10", "--pieces=same_bits"]
    entries = read_lines(subprocess.run(command, cwd=ROOT, capture_output=True, text=True))
    assert list(entries) == ["circumstances", "same_bits"]
    assert entries["same_bits"]["equal"] and entries["same_bits"]["seconds"] > 0.1


def test_an_unknown_piece_is_reported_in_one_line():
    command = [sys.executable, "-m", "benchmarks.accelerator", "--pieces=all"]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 2 and process.stdout == ""
    assert process.stderr.startswith("error: flag --pieces: all not among circumstances, ") and process.stderr.count("\n") == 1


@pytest.mark.ci_only
def test_a_terminated_benchmark_ends_its_piece():
    command = [sys.executable, "-m", "benchmarks.accelerator", "--small", "--pieces=group"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert json.loads(process.stdout.readline())["piece"] == "circumstances"
            deadline, children = time.monotonic() + 60, pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children")
            piece = ""
            while "group" not in piece and time.monotonic() < deadline:
                with contextlib.suppress(OSError, ValueError):
                    (child,) = children.read_text().split()
                    piece = pathlib.Path(f"/proc/{child}/cmdline").read_text()
            assert "group" in piece
            time.sleep(0.5)  # for Popen to return
        finally:
            process.terminate()
        assert process.wait(60) == 128 + signal.SIGTERM
    assert not pathlib.Path(f"/proc/{child}").exists()
