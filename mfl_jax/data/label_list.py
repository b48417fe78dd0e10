"""Reads and checks label lists.

A label list is a tab-separated UTF-8 text with the header

    path  scene_label  event_start_time  event_end_time  event_label

and one row per event. `path` is relative to the folder of the recordings; times are seconds from the start of the recording. A
recording without events has one row whose last three fields are empty.

An empty scene_label means that the scene of the recording is not annotated. One row with the event_label `?` and no times says
the same of its events. In a list of events alone, every scene_label is empty.

The column `group` is optional: a location, a session or a device, the same in all rows of a recording. `folds` keeps the
recordings of a group together.

Labels and paths that look the same are the same, however they are spelled: see `spelling`. `event_rows` says how fields are
quoted.
"""

import csv
import dataclasses
import io
import pathlib
from collections.abc import Mapping, Sequence

from mfl_jax.data import event_rows, spelling
from mfl_jax.data.annotation import NOT_ANNOTATED, Recording
from mfl_jax.data.event_rows import Row
from mfl_jax.data.recording_rows import RecordingRows
from mfl_jax.errors import InputError, warn

COLUMNS = ("path", "scene_label", "event_start_time", "event_end_time", "event_label")
GROUP = "group"
"""Name of the optional column."""


def read_label_list(
    file: str | pathlib.Path,
    *,
    scenes: Sequence[str] | None = None,
    events: Sequence[str] | None = None,
    renamed: Mapping[str, str] | None = None,
    root: pathlib.Path | None = None,
) -> list[Recording]:
    """Reads a label list and checks every row.

    A byte order mark, any line ends, blank lines and white space around fields are accepted.

    Args:
      file: the label list.
      scenes: allowed scene labels, whose spelling the result has; None allows any.
      events: allowed event labels, likewise.
      renamed: former event label -> current one.
      root: folder of the recordings, for paths in the Unicode form of the files; None for paths with composed letters.

    Returns:
      The recordings in the order of their first rows.

    Raises:
      InputError: names the file, the row (the header is row 1) and the value at fault.
    """
    header, rows = _read_table(pathlib.Path(file))
    collected = RecordingRows(COLUMNS[2:], scenes=scenes, events=events)
    for row in rows:
        if len(row.fields) != len(header):
            hint = event_rows.suggest_separator(row.text)
            raise InputError(f"{row.place}: {len(row.fields)} fields, but the header has {len(header)}{hint}: {row.text[:80]!r}")
        fields = dict(zip(header, row.fields, strict=True))
        onset, offset, label = (fields[column] for column in COLUMNS[2:])
        label = (renamed or {}).get(spelling.normalise_label(label), label)
        path = _check_path(fields["path"], row)
        collected.add(
            path, row, onset=onset, offset=offset, label=label, scene=fields["scene_label"], group=fields.get(GROUP, "")
        )  # fmt: skip
    return [dataclasses.replace(recording, path=_real_path(recording.path, root)) for recording in collected.recordings()]


def format_label_list(recordings: Sequence[Recording]) -> str:
    """Returns the text of a label list; `read_label_list` is the inverse, up to the rows of events. No group: no such column."""
    text, has_groups = io.StringIO(), any(recording.group for recording in recordings)
    writer = csv.writer(text, delimiter="\t", lineterminator="\n")
    writer.writerow([*COLUMNS, *([GROUP] if has_groups else [])])
    for recording in recordings:
        rows = [(repr(event.onset_s), repr(event.offset_s), event.label) for event in recording.events]
        for times_and_label in rows or [("", "", "" if recording.events_annotated else NOT_ANNOTATED)]:
            row = [recording.path, recording.scene, *times_and_label]
            writer.writerow([*row, *([recording.group] if has_groups else [])])
    return text.getvalue()


def _real_path(path: str, root: pathlib.Path | None) -> str:
    return path if root is None else spelling.find_file(root, path).relative_to(root).as_posix()


def _read_table(file: pathlib.Path) -> tuple[list[str], list[Row]]:
    """Reads the header and the rows below it; checks the header."""
    text = event_rows.read_text(file, "label list")
    rows = event_rows.parse_rows(text, file, "tab-separated label list", delimiter="\t")
    needed = " ".join(COLUMNS)
    if not rows:
        raise InputError(f"{file}: the label list is empty; it needs the header '{needed}' and one row per event")
    header = rows[0].fields
    if missing := [column for column in COLUMNS if column not in header]:
        raise InputError(
            f"{rows[0].place}: no column {', '.join(map(repr, missing))}; the header is {header}, but must have, "
            f"separated by tabs: {needed}"
        )
    if repeated := [column for column in (*COLUMNS, GROUP) if header.count(column) > 1]:
        raise InputError(f"{rows[0].place}: the column {repeated[0]!r} occurs more than once")
    if similar := [column for column in header if column != GROUP and column.lower().removesuffix("s") == GROUP]:
        warn(f"{rows[0].place}: the column {similar[0]!r} is not used; the column of groups is called {GROUP!r}")
    if len(rows) == 1:
        raise InputError(f"{file}: the label list has a header but no rows")
    return header, rows[1:]


def _check_path(path: str, row: Row) -> str:
    """Returns the path in its shortest spelling, with forward slashes and composed letters."""
    pure = pathlib.PurePosixPath(spelling.normalise_name(path.replace("\\", "/")))
    if not pure.parts or pure.is_absolute() or ".." in pure.parts:
        raise InputError(f"{row.place}: the path {path!r} is not inside the folder of the recordings")
    return str(pure)
