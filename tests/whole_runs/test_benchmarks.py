"""Each benchmark runs at its smallest size; operation counts and error messages are right. Timings depend on the machine."""

import functools
import importlib
import json
import subprocess
import sys

import jax
import numpy as np
import pytest

import benchmarks
from benchmarks import (
    epoch,
    features,
    forward,
    host,
    members,
    predict,
    profile,
    roofline,
    scaling,
    start,
    timing,
    train_step,
    workload,
)
from mfl_jax.data import prepare
from mfl_jax.errors import InputError
from mfl_jax.network import forward as network_forward
from mfl_jax.training import setup
from support import ROOT
from support.small import small_config, small_dataset

pytestmark = pytest.mark.lightly_optimised


def assert_times(result, *sides):
    for side in sides:
        assert 0 < result[side]["lowest_s"] <= result[side]["median_s"] <= result[side]["highest_s"]


def test_sides_take_turns_after_a_warm_up_round():
    calls = []
    times = timing.alternate({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 3)
    assert calls == ["a", "b"] * 4
    assert_times({name: {**side, "lowest_s": max(side["lowest_s"], 1e-12)} for name, side in times.items()}, "a", "b")


@pytest.mark.ci_only
def test_operations_agree_with_the_count_of_the_compiler(monkeypatch):
    # The CPU forms need other numbers of operations.
    monkeypatch.setattr(jax.lax, "platform_dependent", lambda *arrays, default, **others: default(*arrays))
    config = workload.make_config()
    run = setup.build_run(config, workload.make_dataset())
    initial = run.initial
    network = jax.jit(functools.partial(network_forward.infer, graphdef=run.graphdef))
    lowered = network.lower(initial.params, initial.batch_stats, initial.feature_stats, workload.make_batch(run.dataset, 2))
    # The compiler also counts additions of biases and the like, but the body of the recurrence only once.
    counted = lowered.cost_analysis()["flops"]
    assert 2 * workload.forward_multiply_adds(config, 2) == pytest.approx(counted, rel=0.03)


def test_operations_of_a_convolution_exclude_its_padding():
    ones = np.ones((5, 3))
    padded = np.pad(ones, 1)
    taps = sum(padded[t : t + 5, f : f + 3].sum() for t in range(3) for f in range(3))
    assert taps == (3 * 5 - 2) * (3 * 3 - 2)


def alternate_in_this_process(sides, rounds, check):
    """`timing.alternate_apart` without the separate processes."""
    built = {name: build(*arguments) for name, (build, *arguments) in sides.items()}
    (_, first), *others = built.values()
    for name, (_, result) in zip(list(built)[1:], others, strict=True):
        check(name, result, first)
    return timing.alternate({name: call for name, (call, _) in built.items()}, rounds)


@pytest.mark.parametrize(
    ("name", "variants", "apart"), [("train_step", ["eager", "channels_last"], False), ("forward", ["eager"], True)]
)
def test_comparison_with_pytorch(monkeypatch, name, variants, apart):
    pytest.importorskip("torch")
    if not apart:
        monkeypatch.setattr(timing, "alternate_apart", alternate_in_this_process)
    compare = importlib.import_module(f"benchmarks.{name}").results
    (result,) = compare(batch_sizes=[2], channels=4, variants=variants, rounds=1)
    sides = [f"torch_{variant}" for variant in variants]
    assert_times(result, "mfl_jax", *sides)
    assert result["ratio"] == pytest.approx(min(result[side]["median_s"] for side in sides) / result["mfl_jax"]["median_s"])


def test_a_wrong_gradient_stops_the_comparison():
    right = (2.0, {"kernel": np.ones(3)})
    train_step.check("torch_eager", (2.0001, {"kernel": np.full(3, 1.001)}), right)
    for wrong in ((2.001, right[1]), (2.0, {"kernel": np.array([1, 1, 1.1])}), (np.nan, right[1])):
        with pytest.raises(AssertionError, match="torch_eager"):
            train_step.check("torch_eager", wrong, right)


@pytest.mark.ci_only
def test_members():
    assert_times(members.measure(2, 2, 2, 1), "at_once", "one_after_another")


@pytest.mark.ci_only
def test_roofline(monkeypatch):
    monkeypatch.setattr(roofline, "SIZE", 1024)
    monkeypatch.setattr(roofline, "COPIED", 1 << 20)
    result = roofline.measure(2, 2, 1)
    assert_times(result, "train_step", "product", "copy")
    assert 0 < result["share_of_products"] < 1


@pytest.mark.ci_only
def test_profile():
    for way, result in zip(("forward", "training"), profile.measure(2, 2, 1), strict=True):
        assert result["way"] == way
        assert_times(result, "conv1", "conv2", "conv3", "scene_head", "event_head", "whole")


@pytest.mark.ci_only
def test_scaling_draws_its_measurements(tmp_path):
    results = scaling.measure("clips", (1, 2), 2, 1)
    assert [result["time_ratio"] > 0 for result in results] == [True, True]
    assert results[0]["memory_ratio"] == 1 and 1 < results[1]["memory_ratio"] < 2.5
    scaling.draw(
        [result | {"series": kind} for kind, _ in scaling.SERIES.values() for result in results], str(tmp_path / "a.png")
    )
    assert (tmp_path / "a.png").stat().st_size > 10_000


@pytest.mark.ci_only
def test_epoch_in_memory_and_streamed(tmp_path):
    dataset = small_dataset(tmp_path)
    config = small_config(tmp_path)
    assert prepare.open_dataset(config.dataset, config.data_dir) == dataset
    for kind in (type(dataset), epoch.Streamed):
        result = epoch.measure(config, kind(**vars(dataset)), 2, 1)
        assert_times(result, "epoch", "steps")
        assert result["overhead"] > -1


@pytest.mark.ci_only
def test_host_waits_for_the_steps_of_the_simulated_device():
    run, group = host.results(step_ms=20, member_step_ms=20, members=2, epochs=2, rounds=1, channels=2)
    for result, step_s in ((run, 0.02), (group, 0.04)):
        assert result["steps_s"] == pytest.approx(host.STEPS * step_s)
        assert result["overhead"] == pytest.approx(result["epoch"]["median_s"] / result["steps_s"] - 1)
        assert result["overhead"] > -0.2
    assert (run["members"], group["members"]) == (1, 2)


@pytest.mark.ci_only
def test_features_as_a_command_prints_one_json_object():
    flags = ["--recordings=2", "--seconds=3", "--rounds=1", "--lengths_min=1"]
    process = subprocess.run([sys.executable, "-m", features.__name__, *flags], cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    output = json.loads(process.stdout)
    assert output["benchmark"] == "benchmarks.features" and output["versions"]["librosa"]
    comparison, memory = output["results"]
    assert_times(comparison, "librosa_loop", "mfl_jax", "mfl_jax_one_thread")
    assert memory["peak_memory_mb"] > 0


@pytest.mark.ci_only
def test_predict(tmp_path):
    result = predict.compare(tmp_path, 2, 11, 2, 1)
    assert_times(result, "overlap_0", "overlap_half", "features", "network")
    assert result["overlap_0_times_real_time"] == pytest.approx(22 / result["overlap_0"]["median_s"])


@pytest.mark.parametrize(
    ("module", "flag", "message"),
    [
        (forward, "--batch_sizes=16,many", "error: flag --batch_sizes=16,many: must be numbers separated by commas"),
        (start, "--batch=16", "error: Unknown command line flag 'batch'"),
        (start, "16", "error: unexpected: 16"),
    ],
)
def test_a_wrong_flag_is_reported_in_one_line(module, flag, message):
    process = subprocess.run([sys.executable, "-m", module.__name__, flag], cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 2 and process.stdout == ""
    assert process.stderr.startswith(message) and process.stderr.count("\n") == 1


def test_an_unknown_variant_or_missing_pytorch_is_reported(monkeypatch):
    pytest.importorskip("torch")
    with pytest.raises(InputError, match="--variants: fast not among eager, "):
        forward.results(variants=["eager", "fast"])
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "benchmarks.peer_step", raising=False)
    monkeypatch.delattr(benchmarks, "peer_step", raising=False)
    with pytest.raises(InputError, match=r"torch is missing; install it with: pip install -e '\.\[peer\]'"):
        forward.results()


@pytest.mark.ci_only
def test_the_timed_first_step_runs_and_failures_are_noticed():
    start.run_python("-c", start.FIRST_STEP.format(1, 2))
    with pytest.raises(subprocess.CalledProcessError):
        start.run_python("-c", "raise SystemExit(1)")


def test_prepare_counts_hours_and_bytes():
    module = importlib.import_module("benchmarks.prepare")
    (result,) = module.results(recordings=2, seconds=12, rounds=1, beam="--runner=DirectRunner")
    sides = ["spectrograms_one_thread", "spectrograms", "shards", "threads"]
    assert list(result["hours_an_hour"]) == sides + ["pipeline"] * (importlib.util.find_spec("apache_beam") is not None)
    assert_times(result, *result["hours_an_hour"])
    assert result["hours_an_hour"]["shards"] == pytest.approx(24 / result["shards"]["median_s"])
    assert result["recordings_mb_an_hour"] == pytest.approx(44_100 * 6 * 3.6e-3, rel=1e-3)
    # 50 frames of 64 floats per second, plus less than a kilobyte per recording.
    assert 46.08 < result["spectrograms_mb_an_hour"] < 46.5
    assert result["shards_mb_an_hour"] > 46.08 / 2
