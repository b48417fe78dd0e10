"""Reads the work directories of runs that were killed: checkpoints, saved progress, and the files that exist."""

import collections
import contextlib
import json
import os
import pathlib
import re

Line = tuple[str, str]
"""The folder of a run, relative to the work directory, and a line of its metrics.jsonl."""


def list_names(folder: pathlib.Path) -> list[str]:
    """The names in a folder; none if it does not exist, or disappears."""
    with contextlib.suppress(OSError):
        return os.listdir(folder)
    return []


def list_checkpoint_folders(home: pathlib.Path) -> list[pathlib.Path]:
    """The folders in which a run or an experiment keeps its checkpoints."""
    parts = (home / part for part in ("groups", "members"))
    return [home / "checkpoints", *(part / name / "checkpoints" for part in parts for name in list_names(part))]


def list_steps(folder: pathlib.Path) -> list[int]:
    """The steps of the checkpoints in a folder, in ascending order."""
    return sorted(int(name) for name in list_names(folder) if name.isdigit())


def list_members(folder: pathlib.Path) -> list[str]:
    """The members in the newest checkpoint of a group; none for a run."""
    with contextlib.suppress(OSError, IndexError):
        return json.loads((folder / str(list_steps(folder)[-1]) / "about" / "metadata").read_text()).get("members", [])
    return []


def list_files(home: pathlib.Path) -> set[str]:
    """All names in a work directory, except the contents of checkpoints and TensorBoard folders, whose names vary."""
    names = set()
    for folder, folders, files in os.walk(home):
        relative = pathlib.Path(folder).relative_to(home)
        names |= {str(relative / name) for name in (*folders, *files)}
        folders[:] = [name for name in folders if not name.isdigit() and name != "tensorboard"]
    return names


def list_metrics_files(home: pathlib.Path) -> list[pathlib.Path]:
    """metrics.jsonl of a run, or of all members of an experiment."""
    return [file for file in (home / "metrics.jsonl", *home.glob("members/*/metrics.jsonl")) if file.exists()]


def read_metrics(home: pathlib.Path) -> set[Line]:
    """The lines of metrics.jsonl of a run, or of all members of an experiment."""
    files = list_metrics_files(home)
    return {(str(file.parent.relative_to(home)), line) for file in files for line in file.read_text().splitlines()}


def read_saved_metrics(home: pathlib.Path) -> set[Line]:
    """The lines of `read_metrics` whose epoch is in a checkpoint: a resumed run keeps them unchanged, even their seconds."""
    last_steps: dict[str, int] = collections.defaultdict(int)
    for folder in list_checkpoint_folders(home):
        runs = [f"members/{member}" for member in list_members(folder)] or [str(folder.parent.relative_to(home))]
        for name in runs:
            last_steps[name] = max(last_steps[name], *list_steps(folder)[-1:], 0)
    return {(name, line) for name, line in read_metrics(home) if json.loads(line)["step"] <= last_steps[name]}


def count_repeated_epochs(home: pathlib.Path, saved: set[Line], output: str) -> int:
    """How many of the `saved` lines no longer exist, because their epoch was computed again."""
    del output
    return len(saved - read_metrics(home))


def list_saved_spectrograms(home: pathlib.Path) -> set[str]:
    """The spectrograms that are complete."""
    return {str(file) for file in home.rglob("*.f32") if file.with_suffix(".json").exists()}


def count_repeated_spectrograms(home: pathlib.Path, saved: set[str], output: str) -> int | None:
    """How many `saved` spectrograms are computed again, according to the output of a preparation; None if it says nothing."""
    match = re.search(r"(\d+) of \d+ spectrograms", output)
    return max(0, len(saved) - int(match[1])) if match else None
