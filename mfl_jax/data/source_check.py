"""Notices that recordings or label lists have changed since a data set was prepared from them.

A data set holds the sizes and SHA-256 sums of its sources. A file next to it remembers the modification time at which each
recording was last found to be unchanged, so that only recordings with another time are read again.
"""

import collections
import concurrent.futures
import contextlib
import json
import pathlib
from collections.abc import Mapping, Sequence

from mfl_jax.data import label_list
from mfl_jax.data.annotation import Event, Recording
from mfl_jax.data.prepared_dataset import Dataset
from mfl_jax.data.spectrogram_cache import LOOKUP_THREADS, hash_file
from mfl_jax.errors import InputError, join_first, warn
from mfl_jax.runtime.progress import progress_bar

STAMPS = ".sources.json"
"""File next to the versions of a data set: modification times of the recordings."""


def hash_lists(root: pathlib.Path, lists: Mapping[str, pathlib.Path]) -> dict[str, list]:
    """Returns for each list its path below `root`, and its sum or None if it is missing. Call it before the lists are read."""
    return {name: [file.relative_to(root).as_posix(), _hash_if_present(file)] for name, file in lists.items()}


def _hash_if_present(file: pathlib.Path) -> str | None:
    return hash_file(file) if file.is_file() else None


def write_stamps(folder: pathlib.Path, fingerprint: str, modified_ns: Mapping[str, int]) -> None:
    """Writes the modification times of recordings that a data set matches.

    Args:
      folder: of the data set, above its versions.
      fingerprint: of the data set.
      modified_ns: path of a recording -> nanoseconds.

    Raises:
      OSError: the folder is not writable.
    """
    # Not atomic: half a file is ignored, and a killed process leaves no other file.
    (folder / STAMPS).write_text(json.dumps({"fingerprint": fingerprint, "modified_ns": modified_ns}), encoding="utf-8")


def _read_stamps(folder: pathlib.Path, fingerprint: str) -> dict[str, int]:
    try:
        stamps = json.loads((folder / STAMPS).read_bytes())
        return dict(stamps["modified_ns"]) if stamps["fingerprint"] == fingerprint else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}  # missing or incomplete: all recordings are read again


def check_sources(dataset: Dataset, root: pathlib.Path) -> str:
    """Checks that a data set is what would be prepared from a folder now; warns if an older version left no sums.

    Args:
      dataset: prepared.
      root: folder of the recordings and label lists.

    Returns:
      Why the data set can be used.

    Raises:
      InputError: names the first difference in the label lists, or the recordings that differ.
    """
    sources = dataset.sources()
    if sources == {}:
        warn(f"config.manual_dir is not used: the recordings of {dataset.directory} are synthesised")
        return "as it is: its recordings are synthesised"
    if sources is None:
        warn(
            f"{dataset.directory}: prepared by an older version without sums of its recordings and label lists, so it is not "
            f"compared with {root}; delete it to prepare it again"
        )
        return f"as it is: it can't be compared with {root}"
    if not root.is_dir():
        raise InputError(f"config.manual_dir is {root}, which is not a folder; leave it out to use {dataset.directory}")
    if difference := _compare_lists(dataset, root, sources["lists"]) or _compare_recordings(dataset, root, sources["recordings"]):
        raise InputError(
            f"{dataset.directory} was not prepared from this data: {difference}; delete that folder to prepare it again, or "
            "leave out config.manual_dir to use it as it is"
        )
    return f"because the label lists and all {len(sources['recordings'])} recordings of {root} are unchanged"


def _compare_lists(dataset: Dataset, root: pathlib.Path, lists: Mapping[str, Sequence]) -> str:
    """Returns the first difference in the lists, or an empty string. Another order or spelling of the rows is none."""
    for name, (path, sha256) in lists.items():
        file = root / path
        if _hash_if_present(file) == sha256:
            continue
        if name not in dataset.clips:
            return f"{file} {'has changed' if sha256 and file.is_file() else 'is missing' if sha256 else 'is new'}"
        if difference := find_difference(dataset.recordings(name), label_list.read_label_list(file, root=root)):
            return f"{file}, {difference}"
    return ""


def find_difference(before: Sequence[Recording], now: Sequence[Recording]) -> str:
    """Describes the first difference between the recordings of a label list before and now; an empty string for none."""
    former = {recording.path: recording for recording in before}
    if gone := sorted(former.keys() - {recording.path for recording in now}):
        return f"which no longer lists {join_first(gone)}"
    for recording in now:
        if (old := former.get(recording.path)) is None:
            return f"which now lists {recording.path}"
        for kind in ("scene", "group"):
            if (value := getattr(recording, kind)) != (old_value := getattr(old, kind)):
                return f"where the {kind} of {recording.path} was {old_value!r} and is {value!r}"
        if recording.events_annotated != old.events_annotated:
            return f"where the events of {recording.path} are {'now' if recording.events_annotated else 'no longer'} annotated"
        counts, old_counts = (collections.Counter(map(_describe_event, r.events)) for r in (recording, old))
        if added := counts - old_counts:
            event = next(event for event in recording.events if _describe_event(event) in added)
            return f"row {event.row}: {recording.path} did not have {_describe_event(event)}"
        if removed := old_counts - counts:
            return f"where {recording.path} no longer has {next(iter(removed))}"
    return ""


def _describe_event(event: Event) -> str:
    return f"{event.label!r} from {event.onset_s!r} to {event.offset_s!r} s"


def _compare_recordings(dataset: Dataset, root: pathlib.Path, recordings: Mapping[str, Sequence]) -> str:
    """Names the recordings that differ; an empty string for none. Stores the modification times if they are new."""
    folder = dataset.directory.parent
    stamps = _read_stamps(folder, dataset.fingerprint)
    changed: dict[str, str] = {}
    modified_ns: dict[str, int] = {}
    with concurrent.futures.ThreadPoolExecutor(LOOKUP_THREADS) as pool:
        stats = pool.map(lambda path: _read_stat(root / path), recordings)
        for path, (size, time_ns, problem) in zip(recordings, stats, strict=True):
            if problem or size != recordings[path][0]:
                changed[path] = problem or "of another size"
            modified_ns[path] = time_ns
        unsure = [path for path, time_ns in modified_ns.items() if path not in changed and stamps.get(path) != time_ns]
        if unsure and not changed:
            with progress_bar("recordings") as bar:
                sums = pool.map(lambda path: hash_file(root / path), unsure)
                description = f"comparing with {root}"
                for path, sha256 in zip(unsure, bar.track(sums, total=len(unsure), description=description), strict=True):
                    if sha256 != recordings[path][1]:
                        changed[path] = "with other content"
    if changed:
        described = [f"{root / path} ({how})" for path, how in changed.items()]
        return f"{len(changed)} of {len(recordings)} recordings differ: {join_first(described)}"
    if unsure:
        with contextlib.suppress(OSError):  # a data set may be read-only: the recordings are read again at the next start
            write_stamps(folder, dataset.fingerprint, modified_ns)
    return ""


def _read_stat(file: pathlib.Path) -> tuple[int, int, str]:
    """Returns size, modification time, and why there is no such file."""
    try:
        stat = file.stat()
    except OSError as error:
        return 0, 0, error.strerror or str(error)
    return stat.st_size, stat.st_mtime_ns, ""
