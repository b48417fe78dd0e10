"""Exports a trained model as a program that needs no mfl_jax: waveform in, probabilities out.

python -m mfl_jax.export --checkpoint=runs/proposed [--format=onnx|stablehlo] [--out=DIR]

The program computes the log-mel spectrogram itself, so that no caller has to reproduce it.
"""

import json

from absl import flags

from mfl_jax.errors import InputError
from mfl_jax.exporting.formats import FILES
from mfl_jax.runtime import commandline


def define_flags() -> None:
    """Defines the flags of the command."""
    flags.DEFINE_string("checkpoint", None, "A trained run, e.g. runs/proposed, or one of its checkpoints.")
    flags.DEFINE_enum("format", "onnx", list(FILES), "onnx for onnxruntime and others; stablehlo for jax.export and XLA.")
    flags.DEFINE_string("out", None, "Folder to write to; export/<format> in the folder of the run by default.")


def run(arguments: list[str]) -> int:
    """Exports the model that the flags name; returns the exit status."""
    if arguments:
        raise InputError(f"unexpected: {' '.join(arguments)}")
    if not flags.FLAGS.checkpoint:
        raise InputError("--checkpoint=FOLDER is missing, e.g. --checkpoint=runs/proposed")
    from mfl_jax.exporting.export_model import export_model  # here, so that --help and wrong flags answer at once

    folder = export_model(flags.FLAGS.checkpoint, flags.FLAGS.format, flags.FLAGS.out)
    file = folder / FILES[flags.FLAGS.format]
    difference = json.loads((folder / "model.json").read_text(encoding="utf-8"))["largest_difference"]
    print(f"written: {file} ({file.stat().st_size / 1e6:.1f} MB), model.json, README.md")
    print(f"largest difference in probability from the model, on noise: {difference:.2g}")
    return 0


if __name__ == "__main__":
    define_flags()
    commandline.run_with_arguments(run)
