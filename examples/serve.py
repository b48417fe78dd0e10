"""Serves an exported model over HTTP with ONNX Runtime: a recording in, JSON out. It does not need mfl_jax.

python examples/serve.py runs/proposed/export/onnx [--port=8000]
curl --data-binary @street.wav http://127.0.0.1:8000/predict
"""

import argparse
import http.server
import io
import json
import pathlib
import threading

import numpy as np
import onnxruntime
import soundfile
import soxr

MAX_BYTES = 100_000_000
"""Longest body of a request."""
BATCH_CLIPS = 8
"""Clips that are computed at once. It bounds the memory, however long a recording is."""


class Model:
    """An exported model: the folder that `python -m mfl_jax.export` writes."""

    def __init__(self, folder: pathlib.Path, threads: int = 0):
        """Loads the model; `threads` is the number that compute one batch, 0 for one per core."""
        self.about = json.loads((folder / "model.json").read_text(encoding="utf-8"))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        file = str(folder / self.about["file"])
        self._session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        self._computing = threading.Lock()  # one batch at a time: it uses all threads, and memory stays bounded

    def predict(self, sound: bytes) -> dict:
        """Predicts a recording, the bytes of a WAV or FLAC file; raises ValueError if it can't be read."""
        try:
            samples, rate = soundfile.read(io.BytesIO(sound), dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as error:
            raise ValueError(f"not a readable recording: {error.error_string}") from None
        wave, rate_hz = samples.mean(axis=1), self.about["sample_rate_hz"]
        if rate != rate_hz:
            wave = soxr.resample(wave, rate, rate_hz)
        if not len(wave) or not np.isfinite(wave).all():
            raise ValueError("the recording is empty or has samples that are not finite")
        clip, hop = self.about["clip_samples"], self.about["hop_samples"]
        valid = np.minimum(clip, len(wave) - clip * np.arange(-(-len(wave) // clip))).astype(np.int32)
        clips = np.pad(wave, (0, clip * len(valid) - len(wave))).reshape(-1, clip)
        names = [output["name"] for output in self.about["outputs"]]
        batches = []
        for start in range(0, len(clips), BATCH_CLIPS):
            batch = slice(start, start + BATCH_CLIPS)
            with self._computing:
                batches.append(self._session.run(names, {"waveform": clips[batch], "valid_samples": valid[batch]}))
        scores = {name: np.concatenate(parts) for name, parts in zip(names, zip(*batches, strict=True), strict=True)}
        answer = {"duration_s": len(wave) / rate_hz, "model": self.describe()}
        if "scene_probabilities" in scores:
            mean = np.average(scores["scene_probabilities"], axis=0, weights=valid)
            answer["scenes"] = dict(zip(self.about["scenes"], mean.round(4).tolist(), strict=True))
        if "event_probabilities" in scores:
            frames = np.concatenate(list(scores["event_probabilities"]))[: -(-len(wave) // hop)]
            answer["events"] = self._find_events(frames, answer["duration_s"])
        return answer

    def describe(self) -> dict:
        """Identifies the model in every answer."""
        return {key: self.about[key] for key in ("system", "dataset", "checkpoint", "versions")}

    def _find_events(self, frames: np.ndarray, duration_s: float) -> list[dict]:
        """Finds the runs of frames that reach the threshold [shape=(T, E)]."""
        active = np.pad(frames >= np.float32(self.about["threshold"]), ((1, 1), (0, 0))).astype(np.int8)
        events = []
        for column, label in enumerate(self.about["events"]):
            for first, end in np.flatnonzero(np.diff(active[:, column])).reshape(-1, 2):
                onset_s, offset_s = (round(float(frame * self.about["hop_s"]), 6) for frame in (first, end))
                confidence = round(float(frames[first:end, column].mean()), 4)
                events.append(
                    {"label": label, "onset_s": onset_s, "offset_s": min(offset_s, duration_s), "confidence": confidence}
                )
        return sorted(events, key=lambda event: event["onset_s"])


class Handler(http.server.BaseHTTPRequestHandler):
    """POST /predict answers a recording, GET /health says which model is served."""

    protocol_version = "HTTP/1.1"
    timeout = 30  # seconds to wait for a client
    model: Model

    def do_GET(self) -> None:
        if self.path == "/health":
            self._answer(200, {"status": "ok", "model": self.model.describe()})
        else:
            self._answer(404, {"error": "POST a recording to /predict, or GET /health"})

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if self.path != "/predict":
            self._refuse(404, "POST a recording to /predict")
        elif not length.isdecimal():
            self._refuse(411, "Content-Length is missing")
        elif int(length) > MAX_BYTES:
            self._refuse(413, f"longer than {MAX_BYTES} bytes")
        else:
            try:
                self._answer(200, self.model.predict(self.rfile.read(int(length))))
            except ValueError as error:
                self._answer(400, {"error": str(error)})

    def _refuse(self, status: int, reason: str) -> None:
        self.close_connection = True  # its body stays unread
        self._answer(status, {"error": reason})

    def _answer(self, status: int, content: dict) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def create_server(model: Model, host: str, port: int) -> http.server.ThreadingHTTPServer:
    """Creates a server with one thread per connection."""
    handler = type("ModelHandler", (Handler,), {"model": model})
    return http.server.ThreadingHTTPServer((host, port), handler)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path, help="with model.onnx and model.json")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--threads", type=int, default=0, help="threads per batch; 0: one per core")
    arguments = parser.parse_args()
    create_server(Model(arguments.folder, arguments.threads), arguments.host, arguments.port).serve_forever()
