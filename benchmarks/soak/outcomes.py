"""The outcome of a run in a form that can be compared: results, metrics without their times, digests of arrays."""

import hashlib
import json
import pathlib
from collections.abc import Mapping

import flax.traverse_util
import numpy as np

from benchmarks.soak.inputs import DATASET
from mfl_jax.data import prepared_dataset
from mfl_jax.training.checkpoints import Checkpoints


def digest(array: np.ndarray) -> str:
    """The dtype, the shape and a hash of the values of an array."""
    array = np.ascontiguousarray(array)
    return f"{array.dtype} {array.shape} {hashlib.sha256(array.tobytes()).hexdigest()}"


def digest_tree(tree: Mapping) -> dict[str, str]:
    """The digests of all arrays of nested dictionaries, by their path."""
    return {name: digest(leaf) for name, leaf in flax.traverse_util.flatten_dict(tree, sep="/").items()}


def digest_newest_checkpoint(folder: pathlib.Path) -> dict[str, str]:
    """The digests of the arrays of the newest valid checkpoint in a folder."""
    with Checkpoints(folder, keep=2) as checkpoints:
        return digest_tree(checkpoints.newest()[0])


def read_run(home: pathlib.Path) -> dict:
    """The outcome of a training run: everything that two runs of the same command have in common."""
    timed = ("seconds", "clips_per_second")
    lines = [json.loads(line) for line in (home / "metrics.jsonl").read_text().splitlines()]
    metrics = [{key: value for key, value in line.items() if key not in timed} for line in lines]
    results = json.loads((home / "results.json").read_text())
    arrays = digest_newest_checkpoint(home / "checkpoints")
    return {"results": results, "metrics": dict(enumerate(metrics, 1)), "arrays": arrays}


def read_experiment(home: pathlib.Path) -> dict:
    """The outcome of an experiment: those of its members, its results and its tables."""
    texts = {file.name: file.read_text() for file in (home / "data.json", *home.glob("tables/*"))}
    members = {folder.name: read_run(folder) for folder in sorted(home.glob("members/*"))}
    return {"results": json.loads((home / "results.json").read_text()), "texts": texts, "members": members}


def read_preparation(home: pathlib.Path) -> dict:
    """The outcome of a preparation: digests of all examples of the data set."""
    dataset = prepared_dataset.open_dataset(DATASET, home)
    outcome: dict = {"fingerprint": dataset.fingerprint}
    for split in dataset.clips:
        clips = dataset.read(split)
        columns = {"fold": clips.fold, "recording": clips.recording, "clip_start_s": clips.clip_start_s}
        columns |= clips.take(np.arange(len(clips)))
        outcome[split] = {name: digest(values) for name, values in columns.items()}
    return outcome


def find_differences(left, right, path: str = "") -> list[str]:
    """The paths at which two nested dictionaries differ."""
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        keys = dict.fromkeys((*left, *right))
        missing = object()
        pairs = ((key, left.get(key, missing), right.get(key, missing)) for key in keys)
        return [difference for key, *pair in pairs for difference in find_differences(*pair, f"{path}/{key}")]
    # Compared as text, so that NaN equals NaN.
    return [] if repr(left) == repr(right) else [path]
