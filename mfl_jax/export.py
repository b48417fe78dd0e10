"""A trained model as a file that other programs run: waveform in, probabilities out.

python -m mfl_jax.export --checkpoint=runs/proposed [--format=onnx|stablehlo] [--out=DIR]

The spectrogram is part of the program, so that nobody has to compute it a second time and a little otherwise.
"""

import importlib.metadata
import json
import pathlib

import numpy as np
from absl import flags

from mfl_jax.errors import InputError, warn
from mfl_jax.frame_mask import frame_mask
from mfl_jax.runtime import commandline

FILES = {"onnx": "model.onnx", "stablehlo": "model.stablehlo"}
PLATFORMS = ("cpu", "cuda", "tpu")
"""What `model.stablehlo` is compiled for."""
NOTICEABLE = 1e-3
"""A difference in probability from the model itself, from which on the user is told."""


def stablehlo(model) -> bytes:
    """The program of a model for `jax.export.deserialize`, for any number of clips on CPUs, CUDA GPUs and TPUs.

    A CPU takes one clip after another, so that what lies between two layers stays in its cache; other hardware takes all of
    them at once.

    Args:
      model: a `TrainedModel`.

    Returns:
      The serialised program: waveform float32 [shape=(B, clip_frames * hop_samples)], valid_samples int32 [shape=(B,)] ->
      a dictionary of `scene_probabilities` [shape=(B, S)] and `event_probabilities` [shape=(B, clip_frames, E)], float32.

    Raises:
      InputError: flatbuffers is missing.
    """
    _require("flatbuffers")
    import jax
    import jax.numpy as jnp
    from jax import export

    from mfl_jax.exporting import log_mel_in_jax
    from mfl_jax.network import forward

    def together(waveform, valid_samples):
        heard = frame_mask(valid_samples, waveform.shape[1])
        batch = {
            "log_mel": log_mel_in_jax.log_mel(jnp.where(heard, waveform, 0), model.mel),
            "valid_frames": -(-valid_samples // model.mel.hop_samples),
            "clip_mask": jnp.ones(waveform.shape[0], bool),
        }
        logits, _ = forward.apply_network(
            model.params, model.batch_stats, model.feature_stats, batch, graphdef=model.graphdef, train=False
        )
        made = zip(("scene", "event"), (jax.nn.softmax, jax.nn.sigmoid), logits, strict=True)
        return {f"{task}_probabilities": probability(logit) for task, probability, logit in made if logit is not None}

    def one_by_one(waveform, valid_samples):
        def one(clip):
            return jax.tree.map(lambda a: a[0], together(*jax.tree.map(lambda a: a[None], clip)))

        return jax.lax.map(one, (waveform, valid_samples))

    @jax.jit
    def program(waveform, valid_samples):
        return jax.lax.platform_dependent(waveform, valid_samples, cpu=one_by_one, default=together)

    (clips,) = export.symbolic_shape("clips")
    precision = model.config.matmul_precision
    with jax.default_matmul_precision(None if precision == "default" else precision):
        exported = export.export(program, platforms=PLATFORMS)(
            jax.ShapeDtypeStruct((clips, model.clip_frames * model.mel.hop_samples), jnp.float32),
            jax.ShapeDtypeStruct((clips,), jnp.int32),
        )
    return bytes(exported.serialize())


def describe(model, form: str) -> dict:
    """What `model.json` holds: all that a program needs to know to feed the model and to read its answer.

    Args:
      model: a `TrainedModel`. form: of `FILES`.
    """
    mel, samples = model.mel, model.clip_frames * model.mel.hop_samples
    outputs = []
    if model.scenes:
        outputs.append({"name": "scene_probabilities", "dtype": "float32", "shape": ["clips", len(model.scenes)]})
    if model.events:
        shape = ["clips", model.clip_frames, len(model.events)]
        outputs.append({"name": "event_probabilities", "dtype": "float32", "shape": shape})
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
        "outputs": outputs,
        "scenes": list(model.scenes),
        "events": list(model.events),
        "threshold": model.config.threshold,
        "system": model.config.name,
        "dataset": model.config.dataset,
        "checkpoint": {"which": model.which, "step": model.step},
        "versions": {package: importlib.metadata.version(package) for package in packages},
    }


def load_program(model, form: str) -> bytes:
    """The program of a model, as its file holds it.

    Args:
      model: a `TrainedModel`. form: of `FILES`.

    Raises:
      InputError: a package is missing.
    """
    if form == "stablehlo":
        return stablehlo(model)
    _require("onnx")
    from mfl_jax.exporting import onnx_graph

    return onnx_graph.program(model, describe(model, form))


def _require(package: str) -> None:
    try:
        __import__(package)
    except ImportError:
        raise InputError(f"this export needs {package}, which is not installed: pip install -e '.[onnx]'") from None


def run_program(program: bytes, form: str, waveform: np.ndarray, valid_samples: np.ndarray) -> dict[str, np.ndarray]:
    """Runs an exported program on this machine, as another program would.

    Args:
      program: what `stablehlo` or `onnx` made. form: of `FILES`.
      waveform: float32 [shape=(B, clip_samples)]. valid_samples: int32 [shape=(B,)].

    Returns:
      Its outputs by name.

    Raises:
      InputError: onnxruntime or flatbuffers is missing.
    """
    if form == "stablehlo":
        _require("flatbuffers")
        from jax import export

        made = export.deserialize(bytearray(program)).call(waveform, valid_samples)
        return {name: np.asarray(value) for name, value in made.items()}
    _require("onnxruntime")
    import onnxruntime

    session = onnxruntime.InferenceSession(program, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"waveform": waveform, "valid_samples": valid_samples}), strict=True))


def largest_difference(model, program: bytes, form: str) -> float:
    """The largest difference in probability between a program and its model, on a clip of noise and on half a clip."""
    from mfl_jax.data import mel_spectrogram

    samples = model.clip_frames * model.mel.hop_samples
    valid = np.asarray([samples, samples // 2 + 1], np.int32)
    noise = np.random.default_rng(0).normal(0, 0.1, (2, samples)).astype(np.float32)
    noise[1, valid[1] :] = 0
    made = run_program(program, form, noise, valid)
    highest = 0.0
    for clip, end in enumerate(valid):
        for task, expected in zip(
            ("scene", "event"), model(mel_spectrogram.compute_log_mel(noise[clip, :end], model.mel)), strict=True
        ):
            if expected is not None:
                given = made[f"{task}_probabilities"][clip]
                highest = max(highest, float(np.abs((given[: len(expected)] if task == "event" else given) - expected).max()))
    return highest


def export_model(checkpoint: str | pathlib.Path, form: str, out: str | pathlib.Path | None = None) -> pathlib.Path:
    """Writes the program of a trained model, `model.json` and a model card `README.md` into a folder.

    Args:
      checkpoint: of a run, as `mfl_jax.load` takes it. form: of `FILES`.
      out: the folder; `export/<format>` in that of the run by default.

    Returns:
      The folder.

    Raises:
      InputError: there is no such checkpoint, a package is missing, or the folder can't be written to.
    """
    for package in ("flatbuffers",) if form == "stablehlo" else ("onnx", "onnxruntime"):
        _require(package)
    from mfl_jax.exporting.model_card import model_card, read_results
    from mfl_jax.inference import trained_model
    from mfl_jax.runtime import storage

    model = trained_model.load(checkpoint)
    card = model_card(model, read_results(model), form)
    about, program = describe(model, form), load_program(model, form)
    difference = largest_difference(model, program, form)
    if not difference < NOTICEABLE:
        warn(f"the probabilities of the exported model differ from its own by up to {difference:.2g}")
    folder = model.directory / "export" / form if out is None else storage.expand_path(out)
    about["largest_difference"] = difference
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with storage.atomic_path(folder / FILES[form]) as part:
            part.write_bytes(program)
        storage.atomic_write(folder / "model.json", json.dumps(about, indent=1) + "\n")
        storage.atomic_write(folder / "README.md", card)
    except OSError as error:
        raise InputError(f"{folder}: not a folder to write to ({error.strerror})") from None
    size = (folder / FILES[form]).stat().st_size
    print(f"written: {folder / FILES[form]} ({size / 1e6:.1f} MB), model.json, README.md")
    print(f"largest difference in probability from the model itself, on noise: {difference:.2g}")
    return folder


def define_flags() -> None:
    """Defines the flags of the command."""
    flags.DEFINE_string("checkpoint", None, "A trained run, e.g. runs/proposed, or one of its checkpoints.")
    flags.DEFINE_enum("format", "onnx", list(FILES), "onnx for onnxruntime and others; stablehlo for jax.export and XLA.")
    flags.DEFINE_string("out", None, "Folder to write to; export/<format> in the folder of the run by default.")


def run(arguments: list[str]) -> int:
    """Does what the flags say; returns the exit status."""
    if arguments:
        raise InputError(f"unexpected: {' '.join(arguments)}")
    if not flags.FLAGS.checkpoint:
        raise InputError("--checkpoint=FOLDER is missing, e.g. --checkpoint=runs/proposed")
    export_model(flags.FLAGS.checkpoint, flags.FLAGS.format, flags.FLAGS.out)
    return 0


if __name__ == "__main__":
    define_flags()
    commandline.start_without_config(run)
