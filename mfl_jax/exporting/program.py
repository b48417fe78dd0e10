"""Builds, runs and checks the program of a trained model in either format."""

import numpy as np

from mfl_jax.data import mel_spectrogram
from mfl_jax.exporting import stablehlo
from mfl_jax.exporting.description import describe_model
from mfl_jax.exporting.formats import require_package
from mfl_jax.inference.trained_model import TrainedModel


def build_program(model: TrainedModel, form: str) -> bytes:
    """Builds the program of a model, as its file holds it.

    Args:
      model: the model to export.
      form: a key of `formats.FILES`.

    Raises:
      InputError: a package is missing.
    """
    if form == "stablehlo":
        return stablehlo.build_stablehlo(model)
    require_package("onnx")
    from mfl_jax.exporting import onnx_graph  # imports onnx, which is optional

    return onnx_graph.build_onnx(model, describe_model(model, form))


def run_program(program: bytes, form: str, waveform: np.ndarray, valid_samples: np.ndarray) -> dict[str, np.ndarray]:
    """Runs an exported program on this machine, as a third-party program would.

    Args:
      program: as returned by `build_program`.
      form: its format, a key of `formats.FILES`.
      waveform: float32 [shape=(B, clip_samples)].
      valid_samples: int32 [shape=(B,)].

    Returns:
      Name -> output: `scene_probabilities` [shape=(B, S)] and `event_probabilities` [shape=(B, clip_frames, E)], float32.

    Raises:
      InputError: onnxruntime or flatbuffers is missing.
    """
    if form == "stablehlo":
        return stablehlo.run_stablehlo(program, waveform, valid_samples)
    require_package("onnxruntime")
    import onnxruntime  # optional

    session = onnxruntime.InferenceSession(program, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"waveform": waveform, "valid_samples": valid_samples}), strict=True))


def measure_difference(model: TrainedModel, program: bytes, form: str) -> float:
    """Returns the largest difference in probability between a program and its model, on one clip and a half of noise."""
    samples = model.clip_frames * model.mel.hop_samples
    valid = np.asarray([samples, samples // 2 + 1], np.int32)
    noise = np.random.default_rng(0).normal(0, 0.1, (2, samples)).astype(np.float32)
    noise[1, valid[1] :] = 0
    outputs = run_program(program, form, noise, valid)
    largest = 0.0
    for clip, end in enumerate(valid):
        scene, event = model(mel_spectrogram.compute_log_mel(noise[clip, :end], model.mel))
        if scene is not None:
            largest = max(largest, float(np.abs(outputs["scene_probabilities"][clip] - scene).max()))
        if event is not None:
            largest = max(largest, float(np.abs(outputs["event_probabilities"][clip, : len(event)] - event).max()))
    return largest
