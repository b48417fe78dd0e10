"""Exported programs score like their model, from the waveform on."""

import json

import jax
import numpy as np
import pytest

from support.random_model import FRAMES, SAMPLES, assert_scores_of_model, random_model, sounds
from support.small import RATE

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("flatbuffers")

from mfl_jax.exporting import program, stablehlo  # noqa: E402

pytestmark = pytest.mark.lightly_optimised

FORMS = ("onnx", "stablehlo")
MODELS = {
    "both": {},
    "scene": {"tasks": ("scene",)},
    "event": {"tasks": ("event",)},
    "one scene, one event": {"scenes": 1, "events": 1},
    "wide": {"channels": 32},  # makes the model use other convolutions on a CPU
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", MODELS)
def test_program_scores_like_its_model(form, name):
    model = random_model(**MODELS[name])
    clips, valid = sounds()
    outputs = program.run_program(program.build_program(model, form), form, clips, valid)
    assert_scores_of_model(model, outputs, clips, valid)
    # The clips get different scores; otherwise equality would prove little.
    assert all(np.ptp(output, axis=0).max() > 0.01 for output in outputs.values()) or name.startswith("one")


@pytest.mark.parametrize("form", FORMS)
def test_one_program_takes_any_number_of_clips_and_reads_valid_samples_only(form):
    model = random_model()
    exported = program.build_program(model, form)
    clips, valid = sounds()
    padded = clips.copy()
    for clip, samples in zip(padded, valid, strict=True):
        clip[samples:] = np.nan
    for part in (slice(3), slice(3, 4), slice(4, 9)):
        assert_scores_of_model(model, program.run_program(exported, form, padded[part], valid[part]), clips[part], valid[part])


def test_measured_difference():
    own, other = random_model(), random_model(seed=2)
    assert program.measure_difference(own, program.build_program(own, "onnx"), "onnx") < 1e-4
    assert program.measure_difference(own, program.build_program(other, "onnx"), "onnx") > 0.01


def test_onnx_operators_and_interface():
    proto = onnx.load_model_from_string(program.build_program(random_model(), "onnx"))
    onnx.checker.check_model(proto, full_check=True)
    operators = [node.op_type for node in proto.graph.node]
    assert operators.count("GRU") == 1 and not {"Loop", "Scan"} & set(operators)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    assert [(i.name, i.type, i.shape) for i in session.get_inputs()] == [
        ("waveform", "tensor(float)", ["clips", SAMPLES]),
        ("valid_samples", "tensor(int32)", ["clips"]),
    ]
    assert [(o.name, o.type, o.shape) for o in session.get_outputs()] == [
        ("scene_probabilities", "tensor(float)", ["clips", 3]),
        ("event_probabilities", "tensor(float)", ["clips", FRAMES, 4]),
    ]
    about = json.loads(session.get_modelmeta().custom_metadata_map["model.json"])
    assert about["events"] == list("vwxy") and about["sample_rate_hz"] == RATE


def test_stablehlo_platforms_and_interface():
    exported = jax.export.deserialize(bytearray(stablehlo.build_stablehlo(random_model())))
    assert exported.platforms == ("cpu", "cuda", "tpu")
    assert str(exported.in_avals[0].shape) == f"(clips, {SAMPLES})" and str(exported.in_avals[1].shape) == "(clips,)"


@pytest.mark.parametrize("form", FORMS)
def test_bfloat16_model(form):
    model = random_model(compute="bfloat16")
    clips, valid = sounds()
    outputs = program.run_program(program.build_program(model, form), form, clips, valid)
    assert_scores_of_model(model, outputs, clips, valid, tolerance=0.1)
