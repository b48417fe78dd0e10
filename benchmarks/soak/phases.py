"""The phases of a run, recognised by the files in its work directory while its process is stopped."""

import json
import pathlib
from collections.abc import Callable, Mapping

from benchmarks.soak.inputs import DATASET
from benchmarks.soak.workdirs import list_checkpoint_folders, list_members, list_names, list_steps, read_metrics

Phases = Mapping[str, Callable[[pathlib.Path], bool]]

TEMPORARY = ".orbax-checkpoint-tmp"
COMPLETE = "_CHECKPOINT_METADATA"


def is_writing_checksums(home: pathlib.Path) -> bool:
    """Whether checksums are being written, or those of deleted checkpoints still exist beside those of the newest."""
    for folder in list_checkpoint_folders(home):
        checksums, steps = list_names(folder.with_name("checkpoints.sums")), list_steps(folder)
        stale = {name for name in checksums if name.endswith(".json")} - {f"{step}.json" for step in steps}
        if any(".part" in name for name in checksums) or (stale and f"{steps[-1] if steps else ''}.json" in checksums):
            return True
    return False


def is_writing_checkpoint(home: pathlib.Path) -> bool:
    """Whether a checkpoint has its temporary name."""
    return any(TEMPORARY in name for folder in list_checkpoint_folders(home) for name in list_names(folder))


def is_deleting_checkpoint(home: pathlib.Path) -> bool:
    """Whether a checkpoint is half deleted."""
    folders = list_checkpoint_folders(home)
    return any(name.isdigit() and COMPLETE not in list_names(folder / name) for folder in folders for name in list_names(folder))


def is_writing_file(home: pathlib.Path) -> bool:
    """Whether a file of a run, such as metrics.jsonl, has its temporary name."""
    folders = [folder.parent for folder in list_checkpoint_folders(home)]
    return any(".part" in name for folder in folders for name in list_names(folder))


def is_splitting_group(home: pathlib.Path) -> bool:
    """Whether the checkpoint of a member has its temporary name."""
    members = home / "members"
    names = (name for member in list_names(members) for name in list_names(members / member / "checkpoints"))
    return any(TEMPORARY in name for name in names)


def is_clearing_group(home: pathlib.Path) -> bool:
    """Whether checkpoints remain of a group whose members all have their results."""
    members = home / "members"
    finished = {name for name in list_names(members) if "results.json" in list_names(members / name)}
    groups = [home / "groups" / name / "checkpoints" for name in list_names(home / "groups")] if finished else []
    return any((names := list_members(folder)) and finished.issuperset(names) for folder in groups)


def is_finishing(home: pathlib.Path) -> bool:
    """Of a run, whether its last checkpoint has its checksums; of an experiment, whether any member has results."""
    if members := list_names(home / "members"):
        return any("results.json" in list_names(home / "members" / name) for name in members)
    newest = [f"{step}.json" for step in list_steps(home / "checkpoints")[-1:]]
    if not newest or newest[0] not in list_names(home / "checkpoints.sums"):
        return False
    epochs = json.loads((home / "config.json").read_text())["epochs"]
    return len(read_metrics(home)) >= epochs and not is_writing_checkpoint(home)


def is_writing_shards(home: pathlib.Path) -> bool:
    """Whether the preparation has reached its second stage."""
    folders = (home / DATASET).glob("incomplete*")
    return any(".array_record" in name for folder in folders for name in list_names(folder))


def is_sealing(home: pathlib.Path) -> bool:
    """Whether the last file of a data set exists while its folder still has its temporary name."""
    return any((folder / "dataset_info.json").exists() for folder in (home / DATASET).glob("incomplete*"))


def is_prepared(home: pathlib.Path) -> bool:
    """Whether the data set is complete."""
    return any(name[0].isdigit() for name in list_names(home / DATASET))


# The first phase that holds counts, so the order matters: the first two phases of an experiment are special cases of later ones.
TRAINING: Phases = {
    "sums": is_writing_checksums, "metrics": is_writing_file, "deletion": is_deleting_checkpoint,
    "checkpoint": is_writing_checkpoint, "finish": is_finishing,
}  # fmt: skip
EXPERIMENT: Phases = {"dealing": is_splitting_group, "clearing": is_clearing_group, **TRAINING}
PREPARATION: Phases = {"sealing": is_sealing, "shards": is_writing_shards, "finish": is_prepared}


def name_phase(home: pathlib.Path, phases: Phases, default: str) -> str:
    """The name of the first phase that holds for a work directory, or `default`."""
    return next((name for name, holds in phases.items() if holds(home)), default)
