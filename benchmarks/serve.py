"""The example service on the paper's untrained network: latency, requests per second and memory.

python -m benchmarks.serve [--requests=20] [--rounds=5] [--clients=1,2,4] [--seconds=10,60]

Clients on the same machine send noise, mono, 16 bit, 44.1 kHz, one request after another on one connection each. The service is a
process of its own, with the threads of ONNX Runtime's default.
"""

import concurrent.futures
import http.client
import io
import json
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
import soundfile

from benchmarks import predict, timing
from mfl_jax.exporting import description, program

SERVICE = pathlib.Path(__file__).parent.parent / "examples" / "serve.py"
PORT = 8765


def export_untrained(folder: pathlib.Path) -> None:
    """Writes the paper's network with random parameters as `mfl_jax.export` does, without a model card."""
    model = predict.build_untrained_model(128)
    (folder / "model.onnx").write_bytes(program.build_program(model, "onnx"))
    (folder / "model.json").write_text(json.dumps(description.describe_model(model, "onnx")))


def write_noise(seconds: int) -> bytes:
    """Returns a WAV file of noise."""
    out = io.BytesIO()
    noise = 0.1 * np.random.default_rng(0).standard_normal(44_100 * seconds)
    soundfile.write(out, noise, 44_100, format="WAV", subtype="PCM_16")
    return out.getvalue()


def send(sound: bytes, requests: int) -> list[float]:
    """Sends requests one after another; returns the seconds that each took."""
    connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=120)
    taken = []
    for _ in range(requests):
        started = time.perf_counter()
        connection.request("POST", "/predict", sound)
        answer = connection.getresponse()
        content = answer.read()
        taken.append(time.perf_counter() - started)
        if answer.status != 200:
            raise RuntimeError(f"the service answered {answer.status}: {content[:200]!r}")
    connection.close()
    return taken


def measure(process: subprocess.Popen, seconds: int, clients: int, requests: int, rounds: int) -> dict:
    """Measures some clients at once: medians over the rounds, and the peak memory of the service so far."""
    sound = write_noise(seconds)
    medians, slowest, rates = [], [], []
    for _ in range(rounds):
        started = time.perf_counter()
        with concurrent.futures.ThreadPoolExecutor(clients) as pool:
            taken = [each for part in pool.map(lambda _: send(sound, requests // clients), range(clients)) for each in part]
        rates.append(len(taken) / (time.perf_counter() - started))
        medians.append(statistics.median(taken))
        slowest.append(max(taken))
    status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
    return {
        "recording_s": seconds, "clients": clients, "requests": requests, "rounds": rounds,
        "latency_ms": 1000 * statistics.median(medians), "slowest_ms": 1000 * statistics.median(slowest),
        "requests_per_s": statistics.median(rates), "lowest_requests_per_s": min(rates), "highest_requests_per_s": max(rates),
        "peak_memory_mb": int(re.search(r"VmHWM:\s+(\d+)", status).group(1)) / 1024,
    }  # fmt: skip


def results(*, requests=20, rounds=5, clients=(1, 2, 4), seconds=(10, 60)) -> list[dict]:
    """Returns one entry per length of recording and number of clients."""
    with tempfile.TemporaryDirectory() as name:
        export_untrained(pathlib.Path(name))
        process = subprocess.Popen([sys.executable, str(SERVICE), name, f"--port={PORT}"], stderr=subprocess.DEVNULL)
        try:
            for _ in range(100):  # until it listens
                try:
                    send(write_noise(1), 2)
                    break
                except ConnectionError:
                    time.sleep(0.2)
            return [measure(process, length, count, requests, rounds) for length in seconds for count in clients]
        finally:
            process.terminate()
            process.wait()


if __name__ == "__main__":
    timing.run(results, "onnx", "onnxruntime", "soundfile")
