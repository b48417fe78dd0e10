"""Joins label files of other programs to their recordings, and writes label lists of this project."""

import concurrent.futures
import contextlib
import dataclasses
import os
import pathlib
import re
from collections.abc import Callable, Collection, Mapping, Sequence

import soundfile

from mfl_jax.data import event_list, label_list, spelling
from mfl_jax.data.annotation import Event, Recording
from mfl_jax.data.match_recordings import AUDIO_SUFFIXES, match_recordings
from mfl_jax.data.spectrogram_cache import LOOKUP_THREADS, refusal
from mfl_jax.errors import InputError, join_first
from mfl_jax.runtime import folder_walk, storage

LINK = "audio"
"""Link to the folder of the recordings, beside the label lists, if that folder is elsewhere."""
LISTS = "meta"
"""Folder of the label lists."""


@dataclasses.dataclass(frozen=True)
class Labelled:
    """Recordings and labels that were found.

    Attributes:
      recordings: those with labels; paths are relative to the folder of the recordings.
      seconds: path -> length of the recording.
      without_labels: paths of the other recordings.
      without_recording: names of recordings that have labels but no file.
      corrected: paths of recordings whose labels a later source changed.
    """

    recordings: list[Recording]
    seconds: dict[str, float]
    without_labels: list[str]
    without_recording: list[str]
    corrected: list[str]


def list_file(out: pathlib.Path, name: str) -> pathlib.Path:
    """Returns the file of a label list, where a builder looks for the one of a split."""
    return out / LISTS / f"meta_{name}.txt"


def find_labelled(
    sources: Sequence[pathlib.Path], root: pathlib.Path, wanted: event_list.Wanted, *, left_out: Collection[pathlib.Path] = ()
) -> Labelled:
    """Finds the recordings below a folder, and their labels.

    Args:
      sources: lists or folders of lists, see `event_list.read_recordings`. Later ones correct earlier ones: a recording has the
        events, the scene and the group of the last source that annotates them.
      root: folder of the recordings.
      wanted: columns of the lists.
      left_out: files below the sources that are not read.

    Raises:
      InputError: a list is invalid, labels match several recordings or none at all, or a recording can't be opened or listed.
    """
    labels = [{r.path: r for r in event_list.read_recordings(source, wanted, left_out=left_out)} for source in sources]
    paths = _list_audio(root)
    if not paths:
        raise InputError(f"{root}: no recording in this folder; name the folder of the recordings by --recordings=DIR")
    by_path: dict[str, Recording] = {}
    corrected: set[str] = set()
    without_recording: list[str] = []
    for source, by_name in zip(sources, labels, strict=True):
        matches = _match_names(source, by_name, root, paths)
        without_recording += [name for name in by_name if name not in matches]
        for name, path in matches.items():
            recording = dataclasses.replace(by_name[name], path=path)
            if (earlier := by_path.get(path)) is not None:
                recording = _correct(earlier, recording)
                if _without_rows(recording) != _without_rows(earlier):
                    corrected.add(path)
            by_path[path] = recording
    return Labelled(
        [by_path[path] for path in sorted(by_path)],
        _measure_lengths(root, sorted(by_path)),
        [path for path in paths if path not in by_path],
        without_recording,
        sorted(corrected),
    )


def _match_names(source: pathlib.Path, names: Collection[str], root: pathlib.Path, paths: Sequence[str]) -> dict[str, str]:
    """Returns the path of the recording of each name of a source that has one."""
    try:
        matches = match_recordings(names, paths, require_all=False, kind="labelled")
    except InputError as error:
        raise InputError(f"labels in {source}, recordings in {root}: {error}") from None
    if not matches:
        raise InputError(
            f"{source}: none of its {len(names)} recordings is in {root}, {next(iter(names), '')!r} for one; name the folder "
            "of the recordings by --recordings=DIR, so that the names below both folders agree"
        )
    return matches


def _correct(earlier: Recording, later: Recording) -> Recording:
    """Returns a recording with what the later labels annotate in place of the earlier ones."""
    annotated = later if later.events_annotated else earlier
    return dataclasses.replace(annotated, scene=later.scene or earlier.scene, group=later.group or earlier.group)


def _without_rows(recording: Recording) -> Recording:
    """Returns a recording as its annotation counts: without row numbers, events in the order of time."""
    events = sorted((event.onset_s, event.offset_s, event.label) for event in recording.events)
    return dataclasses.replace(recording, events=tuple(Event(*event) for event in events))


def _list_audio(root: pathlib.Path) -> list[str]:
    """Returns the paths of the recordings below a folder, sorted."""
    entries = sorted(folder_walk.walk_folder(root))
    if unreadable := [path for path, is_file in entries if not is_file]:
        raise InputError(f"{unreadable[0]}: not readable (a folder without permission, or a link that leads nowhere)")
    paths = [path.relative_to(root).as_posix() for path, _ in entries if path.suffix.lower() in AUDIO_SUFFIXES]
    # A label list can't hold these names: its rows are lines, and it takes backslashes for slashes.
    if odd := [path for path in paths if not path.isprintable() or "\\" in path or path != path.strip()]:
        raise InputError(f"{root}: {len(odd)} names hold a backslash, a line break or spaces at an end; rename {odd[0]!r}")
    return paths


def _measure_lengths(root: pathlib.Path, paths: Sequence[str]) -> dict[str, float]:
    """Returns the length of each recording in seconds."""

    def measure(path: str) -> float | str:
        try:
            return float(soundfile.info(root / path).duration)
        except (soundfile.SoundFileError, OSError) as error:
            return f"{root / path}: {' '.join(str(error).split())}"

    with concurrent.futures.ThreadPoolExecutor(LOOKUP_THREADS) as pool:
        lengths = dict(zip(paths, pool.map(measure, paths), strict=True))
    if refused := [length for length in lengths.values() if isinstance(length, str)]:
        raise refusal(refused)
    return {path: float(length) for path, length in lengths.items()}


def parse_name_rule(flag: str, rule: str) -> tuple[str, Callable[[str], str | None]]:
    """Parses what gives each recording its scene or its group.

    Args:
      flag: name of the flag, for error messages.
      rule: `folder`, `pattern:REGEX` or `column:NAME`.

    Returns:
      The name of a column of the lists, or "" and a function from the path of a recording to a text: the folder, which is empty
      for the top folder; or the first group of the pattern in the file name (all that matches, without a group), None if it does
      not match.

    Raises:
      InputError: another rule, or not a regular expression.
    """
    kind, _, value = rule.partition(":")
    if rule == "folder":
        return "", lambda path: "" if (parent := pathlib.PurePosixPath(path).parent.as_posix()) == "." else parent
    if kind == "column" and value:
        return value, lambda path: None
    if kind != "pattern" or not value:
        raise InputError(f"--{flag}={rule}: must be folder, pattern:REGEX or column:NAME")
    try:
        pattern = re.compile(value)
    except re.error as error:
        raise InputError(f"--{flag}={rule}: not a regular expression ({error})") from None

    def match(path: str) -> str | None:
        found = pattern.search(pathlib.PurePosixPath(path).name)
        return found and (found[1] if pattern.groups else found[0])

    return "", match


def name_recordings(recordings: Sequence[Recording], field: str, rule: str) -> list[Recording]:
    """Gives each recording its scene or group by its path.

    Args:
      recordings: to change.
      field: `scene` or `group`.
      rule: as for `parse_name_rule`; a column changes nothing.

    Raises:
      InputError: the pattern does not match all file names, all recordings are in the top folder, or have scenes already.
    """
    column, name = parse_name_rule(field, rule)
    if column:
        return list(recordings)
    names = {recording.path: name(recording.path) for recording in recordings}
    if unmatched := [path for path, text in names.items() if text is None]:
        raise InputError(f"--{field}={rule}: does not match {len(unmatched)} of {len(names)} file names: {join_first(unmatched)}")
    if not any(names.values()):
        raise InputError(f"--{field}={rule}: gives no {field}; all recordings are in one folder")
    if field == "scene" and any(recording.scene for recording in recordings):
        raise InputError(f"--scene={rule}: the labels name scenes already; leave out --scene")
    texts = {path: spelling.normalise_label(text or "") for path, text in names.items()}
    if field == "scene":
        return [dataclasses.replace(recording, scene=texts[recording.path]) for recording in recordings]
    return [dataclasses.replace(recording, group=texts[recording.path]) for recording in recordings]


def write_label_lists(out: pathlib.Path, root: pathlib.Path, lists: Mapping[str, Sequence[Recording]]) -> list[pathlib.Path]:
    """Writes label lists, so that `out` is a folder of recordings with label lists as the builder reads it.

    If the recordings are not below `out`, a link to their folder is made there.

    Args:
      out: the folder.
      root: folder of the recordings.
      lists: name of a list -> its recordings.

    Returns:
      The files.

    Raises:
      InputError: a file or link exists with other content, or can't be written. Nothing is written then.
    """
    out, root = pathlib.Path(os.path.realpath(out)), pathlib.Path(os.path.realpath(root))
    link = None if root.is_relative_to(out) else out / LINK
    prefix = pathlib.PurePosixPath(LINK) if link else pathlib.PurePosixPath(root.relative_to(out).as_posix())
    texts = {
        list_file(out, name): label_list.format_label_list(
            [dataclasses.replace(recording, path=str(prefix / recording.path)) for recording in recordings]
        )
        for name, recordings in lists.items()
    }
    others = [file for file, text in texts.items() if os.path.lexists(file) and not _holds(file, text)]
    if link and os.path.lexists(link) and os.path.realpath(link) != str(root):
        others.append(link)
    if others:
        raise InputError(f"{others[0]}: exists with other content and is not overwritten; delete it, or name another --out")
    try:
        (out / LISTS).mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as renames:  # at its end: all lists are written before the first gets its name
            for file, text in texts.items():
                renames.enter_context(storage.atomic_path(file)).write_text(text, encoding="utf-8", newline="")
            if link and not os.path.lexists(link):
                link.symlink_to(root, target_is_directory=True)
    except OSError as error:
        raise InputError(f"--out={out}: can't be written ({error.strerror or error})") from None
    return list(texts)


def _holds(file: pathlib.Path, text: str) -> bool:
    return file.is_file() and file.read_bytes() == text.encode()
