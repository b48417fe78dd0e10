"""The benchmarks: that each runs, on next to nothing, and what they count; what they measure depends on the machine."""

import functools
import importlib
import json
import subprocess
import sys

import jax
import numpy as np
import pytest

import benchmarks
from benchmarks import epoch, features, forward, members, predict, profile, roofline, scaling, start, timing, train_step, workload
from mfl_jax.data import prepare
from mfl_jax.errors import InputError
from mfl_jax.network import forward as network_forward
from mfl_jax.training import setup
from support import ROOT
from support.small import small_config, small_dataset


def assert_times(result, *sides):
    for side in sides:
        assert 0 < result[side]["lowest_s"] <= result[side]["median_s"] <= result[side]["highest_s"]


def test_sides_take_turns_after_a_round_that_does_not_count():
    calls = []
    times = timing.alternate({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 3)
    assert calls == ["a", "b"] * 4
    assert_times({name: {**side, "lowest_s": max(side["lowest_s"], 1e-12)} for name, side in times.items()}, "a", "b")


def test_operations_are_those_that_the_compiler_counts(monkeypatch):
    # The CPU forms need fewer operations or others.
    monkeypatch.setattr(jax.lax, "platform_dependent", lambda *arrays, cpu, default: default(*arrays))
    config = workload.make_config()
    made = setup.build_run(config, workload.make_dataset())
    initial = made.initial
    network = jax.jit(functools.partial(network_forward.infer, graphdef=made.graphdef))
    lowered = network.lower(initial.params, initial.batch_stats, initial.feature_stats, workload.make_batch(made.dataset, 2))
    # It counts additions of biases and the like as well, and the body of the recurrence once.
    counted = lowered.cost_analysis()["flops"]
    assert 2 * workload.forward_multiply_adds(config, 2) == pytest.approx(counted, rel=0.03)


def test_operations_of_a_convolution_leave_its_padding_out():
    ones = np.ones((5, 3))
    padded = np.pad(ones, 1)
    taps = sum(padded[t : t + 5, f : f + 3].sum() for t in range(3) for f in range(3))
    assert taps == (3 * 5 - 2) * (3 * 3 - 2)


@pytest.mark.parametrize(("name", "variants"), [("train_step", ["eager", "channels_last"]), ("forward", ["eager"])])
def test_against_the_peer(name, variants):
    pytest.importorskip("torch")
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


def test_members_and_roofline():
    assert_times(members.measure(2, 2, 2, 1), "at_once", "one_after_another")
    made = roofline.measure(2, 2, 1)
    assert_times(made, "train_step", "product", "copy")
    assert 0 < made["share_of_products"] < 1


def test_profile():
    for way, made in zip(("forward", "training"), profile.measure(2, 2, 1), strict=True):
        assert made["way"] == way
        assert_times(made, "conv1", "conv2", "conv3", "scene_head", "event_head", "whole")


def test_scaling_draws_what_it_measured(tmp_path):
    made = scaling.measure("clips", (1, 2), 2, 1)
    assert [result["time_ratio"] > 0 for result in made] == [True, True]
    assert made[0]["memory_ratio"] == 1 and 1 < made[1]["memory_ratio"] < 2.5
    scaling.draw([result | {"series": kind} for kind, _ in scaling.SERIES.values() for result in made], str(tmp_path / "a.png"))
    assert (tmp_path / "a.png").stat().st_size > 10_000


def test_epoch_in_memory_and_streamed(tmp_path):
    dataset = small_dataset(tmp_path)
    config = small_config(tmp_path)
    made = prepare.open_dataset(config.dataset, config.data_dir)
    assert made == dataset
    for kind in (type(dataset), epoch.Streamed):
        result = epoch.measure(config, kind(**vars(dataset)), 2)
        assert_times(result, "epoch", "steps")
        assert result["overhead"] > -1


def test_features_and_the_one_object_that_a_benchmark_prints():
    flags = ["--recordings=2", "--seconds=3", "--rounds=1", "--lengths_min=1"]
    done = subprocess.run([sys.executable, "-m", features.__name__, *flags], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    assert printed["benchmark"] == "benchmarks.features" and printed["versions"]["librosa"]
    compared, memory = printed["results"]
    assert_times(compared, "librosa_loop", "mfl_jax", "mfl_jax_one_thread")
    assert memory["peak_memory_mb"] > 0


def test_predict(tmp_path):
    result = predict.compare(tmp_path, 2, 11, 2, 1)
    assert_times(result, "overlap_0", "overlap_half", "features", "network")
    assert result["overlap_0_times_real_time"] == pytest.approx(22 / result["overlap_0"]["median_s"])


@pytest.mark.parametrize(
    ("flag", "answer"),
    [
        ("--batch_sizes=16,many", "error: flag --batch_sizes=16,many: numbers with commas between them are meant"),
        ("--batch=16", "error: Unknown command line flag 'batch'"),
        ("16", "error: unexpected: 16"),
    ],
)
def test_a_wrong_flag_gets_one_line(flag, answer):
    done = subprocess.run([sys.executable, "-m", forward.__name__, flag], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith(answer) and done.stderr.count("\n") == 1


def test_what_is_not_there_to_compare_with_gets_one_line(monkeypatch):
    pytest.importorskip("torch")
    with pytest.raises(InputError, match="--variants: fast not among eager, "):
        forward.results(variants=["eager", "fast"])
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "benchmarks.peer_step", raising=False)
    monkeypatch.delattr(benchmarks, "peer_step", raising=False)
    with pytest.raises(InputError, match=r"torch is missing; install it with: pip install -e '\.\[peer\]'"):
        forward.results()


def test_the_first_step_that_is_timed_is_one():
    start.python("-c", start.FIRST_STEP.format(1, 2))
    with pytest.raises(subprocess.CalledProcessError):
        start.python("-c", start.FIRST_STEP.format(0, 2))


def test_preparing_counts_hours_and_bytes():
    module = importlib.import_module("benchmarks.prepare")
    flags = ["--recordings=2", "--seconds=12", "--rounds=1", "--beam=--runner=DirectRunner"]
    done = subprocess.run([sys.executable, "-m", module.__name__, *flags], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (result,) = json.loads(done.stdout)["results"]
    sides = ["spectrograms_one_thread", "spectrograms", "shards", "threads"]
    assert list(result["hours_an_hour"]) == sides + ["pipeline"] * (importlib.util.find_spec("apache_beam") is not None)
    assert_times(result, *result["hours_an_hour"])
    assert result["hours_an_hour"]["shards"] == pytest.approx(24 / result["shards"]["median_s"])
    assert result["recordings_mb_an_hour"] == pytest.approx(44_100 * 6 * 3.6e-3, rel=1e-3)
    # 50 frames of 64 floats a second, and less than a kilobyte beside each recording.
    assert 46.08 < result["spectrograms_mb_an_hour"] < 46.5
    assert result["shards_mb_an_hour"] > 46.08 / 2
