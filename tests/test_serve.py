"""The example service, with a model whose scores follow from the waveform by hand."""

import io
import json
import threading
import urllib.error
import urllib.request

import numpy as np
import pytest
import soundfile

from support.examples import load_example

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

ABOUT = {
    "file": "model.onnx", "sample_rate_hz": 1000, "clip_samples": 8, "hop_samples": 2, "hop_s": 0.002, "threshold": 0.5,
    "scenes": ["loud", "quiet"], "events": ["click"], "system": "proposed", "dataset": "small", "checkpoint": {"step": 5},
    "versions": {"mfl_jax": "0.1.0"}, "outputs": [{"name": "scene_probabilities"}, {"name": "event_probabilities"}],
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An exported model: the scene `loud` has the mean of a clip, the event `click` the maximum of a frame."""
    folder = tmp_path_factory.mktemp("export")
    helper, kind = onnx.helper, onnx.TensorProto
    constants = {"shape": [-1, 4, 2], "frame": [2], "last": [2], "clip": [1]}
    nodes = [
        helper.make_node("Reshape", ["waveform", "shape"], ["framed"]),
        helper.make_node("ReduceMax", ["framed", "frame"], ["highest"], keepdims=0),
        helper.make_node("Unsqueeze", ["highest", "last"], ["event_probabilities"]),
        helper.make_node("ReduceMean", ["waveform", "clip"], ["loud"], keepdims=1),
        helper.make_node("Sub", ["one", "loud"], ["quiet"]),
        helper.make_node("Concat", ["loud", "quiet"], ["scene_probabilities"], axis=1),
    ]
    graph = helper.make_graph(
        nodes, "model",
        [
            helper.make_tensor_value_info("waveform", kind.FLOAT, ["clips", 8]),
            helper.make_tensor_value_info("valid_samples", kind.INT32, ["clips"]),
        ],
        [
            helper.make_tensor_value_info("scene_probabilities", kind.FLOAT, ["clips", 2]),
            helper.make_tensor_value_info("event_probabilities", kind.FLOAT, ["clips", 4, 1]),
        ],
        [
            *(helper.make_tensor(name, kind.INT64, [len(values)], values) for name, values in constants.items()),
            helper.make_tensor("one", kind.FLOAT, [1], [1.0]),
        ],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, folder / "model.onnx")
    (folder / "model.json").write_text(json.dumps(ABOUT))
    return folder


@pytest.fixture(scope="module")
def server(folder):
    service = load_example("serve")
    with service.create_server(service.Model(folder), "127.0.0.1", 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def wav(samples, rate=1000):
    out = io.BytesIO()
    soundfile.write(out, np.asarray(samples, np.float32), rate, format="WAV", subtype="FLOAT")
    return out.getvalue()


def ask(url, body=None):
    """Returns the status and the JSON of an answer."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data=body), timeout=20) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def test_scene_and_events_of_a_recording(server):
    """Eleven samples are two clips: the second counts 3 / 8 as much, and its last frames are no part of the recording."""
    left = [0.9, 0, 0.75, 0, 0, 0, 0.5, 0, 0.25, 0, 1.0]
    status, answer = ask(f"{server}/predict", wav(np.stack([left, left], axis=1)))
    assert status == 200 and answer["duration_s"] == 0.011
    means = [sum(left[:8]) / 8, sum(left[8:]) / 8]
    assert answer["scenes"]["loud"] == pytest.approx((8 * means[0] + 3 * means[1]) / 11, abs=1e-4)
    assert answer["scenes"]["quiet"] == pytest.approx(1 - answer["scenes"]["loud"], abs=2e-4)
    assert answer["events"] == [
        {"label": "click", "onset_s": 0.0, "offset_s": 0.004, "confidence": pytest.approx(0.825)},
        {"label": "click", "onset_s": 0.006, "offset_s": 0.008, "confidence": 0.5},
        {"label": "click", "onset_s": 0.01, "offset_s": 0.011, "confidence": 1.0},
    ]
    assert answer["model"] == {key: ABOUT[key] for key in ("system", "dataset", "checkpoint", "versions")}


def test_batches_do_not_change_an_answer(folder, monkeypatch):
    service = load_example("serve")
    sound = wav(np.random.default_rng(0).random(100))
    whole = service.Model(folder, threads=1).predict(sound)
    monkeypatch.setattr(service, "BATCH_CLIPS", 3)
    assert service.Model(folder, threads=1).predict(sound) == whole


def test_other_rates_are_resampled(server):
    assert ask(f"{server}/predict", wav(np.zeros(4000), 4000))[1]["duration_s"] == 1.0


@pytest.mark.parametrize(
    ("path", "body", "status", "text"),
    [
        ("/predict", b"no recording", 400, "not a readable recording"),
        ("/predict", wav([]), 400, "empty"),
        ("/predict", wav([np.nan, 0.0]), 400, "not finite"),
        ("/other", wav([0.0]), 404, "/predict"),
        ("/predict", None, 404, "/health"),
    ],
    ids=["no audio", "empty", "not finite", "path", "no body"],
)
def test_mistakes_are_refused(server, path, body, status, text):
    got, answer = ask(server + path, body)
    assert got == status and text in answer["error"]


def test_long_bodies_are_refused_unread(folder, monkeypatch):
    service = load_example("serve")
    monkeypatch.setattr(service, "MAX_BYTES", 10)
    with service.create_server(service.Model(folder, threads=1), "127.0.0.1", 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        status, answer = ask(f"http://127.0.0.1:{server.server_port}/predict", b"12345678901")
        server.shutdown()
    assert status == 413 and answer["error"] == "longer than 10 bytes"


def test_health_names_the_model(server):
    assert ask(f"{server}/health") == (
        200,
        {"status": "ok", "model": {key: ABOUT[key] for key in ("system", "dataset", "checkpoint", "versions")}},
    )
