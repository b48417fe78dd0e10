"""model.json: everything a program needs to feed an exported model and to read its output."""

import dataclasses
import importlib.metadata

from mfl_jax.exporting.formats import FILES
from mfl_jax.inference import postprocessing
from mfl_jax.inference.trained_model import TrainedModel


def describe_model(model: TrainedModel, form: str) -> dict:
    """Builds the contents of model.json.

    Args:
      model: the model to describe.
      form: a key of `FILES`.
    """
    mel, samples = model.mel, model.clip_frames * model.mel.hop_samples
    packages = ("mfl_jax", "jax", "flax", "numpy", *(("onnx",) if form == "onnx" else ()))
    return {
        "format": form,
        "file": FILES[form],
        "sample_rate_hz": mel.sample_rate_hz,
        "clip_samples": samples,
        "clip_s": samples / mel.sample_rate_hz,
        "hop_samples": mel.hop_samples,
        "hop_s": mel.hop_s,
        "window_s": mel.window_samples / mel.sample_rate_hz,
        "inputs": [
            {"name": "waveform", "dtype": "float32", "shape": ["clips", samples]},
            {"name": "valid_samples", "dtype": "int32", "shape": ["clips"]},
        ],
        "outputs": _describe_outputs(model),
        "scenes": list(model.scenes),
        "events": list(model.events),
        "threshold": model.config.threshold,
        "rules": {label: dataclasses.asdict(rule) for label, rule in read_run_rules(model).items()},
        "system": model.config.name,
        "dataset": model.config.dataset,
        "checkpoint": {"which": model.which, "step": model.step},
        "versions": {package: importlib.metadata.version(package) for package in packages},
    }


def read_run_rules(model: TrainedModel) -> dict[str, postprocessing.Rule]:
    """Reads the rules with which `mfl_jax.predict` detects the events of a run; none if only the config's threshold applies.

    Raises:
      InputError: the file of rules is invalid.
    """
    file = model.directory / postprocessing.RULES_FILE
    return postprocessing.read_rules(file, model.events, step=model.step) if model.events and file.is_file() else {}


def _describe_outputs(model: TrainedModel) -> list[dict]:
    outputs = []
    if model.scenes:
        outputs.append({"name": "scene_probabilities", "dtype": "float32", "shape": ["clips", len(model.scenes)]})
    if model.events:
        shape = ["clips", model.clip_frames, len(model.events)]
        outputs.append({"name": "event_probabilities", "dtype": "float32", "shape": shape})
    return outputs
