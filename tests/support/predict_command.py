"""Calls the predict command in this process, and reads what it writes."""

import functools
import json
from unittest import mock

import numpy as np
import soundfile
from absl import flags
from absl.testing import flagsaver

from mfl_jax import predict
from mfl_jax.inference import trained_model
from support import small

load_once = functools.cache(trained_model.load)
"""Loads and compiles each model once for all calls."""

OVERVIEW = ["detections.csv", "finished.jsonl", "summary.json"]
"""Files that the command always writes if it predicts a recording."""


def run_predict(out, *arguments):
    """Runs `python -m mfl_jax.predict --out=OUT ARGUMENTS` in this process; returns its exit status."""
    before = set(flags.FLAGS)
    predict.define_flags()
    try:
        with flagsaver.flagsaver(), mock.patch.object(trained_model, "load", load_once):
            rest = flags.FLAGS(["predict", f"--out={out}", *map(str, arguments)])
            return predict.run(rest[1:])
    finally:
        for name in set(flags.FLAGS) - before:
            delattr(flags.FLAGS, name)


def write_noise(file, samples=9000, seed=0):
    """Writes a recording of noise, with its folder; returns the file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(file, 0.05 * np.random.default_rng(seed).standard_normal(samples).clip(-9, 9), small.RATE)
    return file


def list_files(folder):
    """Paths of all files below a folder, relative to it."""
    return sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())


def read_json(file):
    return json.loads(file.read_text(encoding="utf-8"))
