"""Reads and checks label lists.

A label list is a tab-separated UTF-8 text with the header

    path  scene_label  event_start_time  event_end_time  event_label

and a row an event; `path` is relative to the folder of the recordings, times are seconds from its start. A recording
without events is one row whose last three fields are empty.
"""

import csv
import difflib
import io
import math
import pathlib
from collections.abc import Mapping, Sequence

from mfl_jax.data.annotation import Event, Recording
from mfl_jax.data.event_rows import read_text
from mfl_jax.errors import InputError

COLUMNS = ("path", "scene_label", "event_start_time", "event_end_time", "event_label")


def read_label_list(
    file: str | pathlib.Path,
    *,
    scenes: Sequence[str] | None = None,
    events: Sequence[str] | None = None,
    renamed: Mapping[str, str] | None = None,
) -> list[Recording]:
    """Reads a label list and checks every row of it.

    A byte order mark, any line ends, blank lines and white space around a field do no harm.

    Args:
      file: the label list.
      scenes, events: the labels that may occur; None admits any.
      renamed: labels under which an event went in older copies of the list, with the name of today.

    Returns:
      The recordings in the order of their first row.

    Raises:
      InputError: names the file, the row (the header is row 1) and the value at fault.
    """
    file = pathlib.Path(file)
    text = read_text(file, "label list")
    table = csv.reader(io.StringIO(text, newline=""), delimiter="\t", quoting=csv.QUOTE_NONE)
    try:
        rows = [(number, [field.strip() for field in row]) for number, row in enumerate(table, 1)]
    except csv.Error as error:
        raise InputError(f"{file}, row {table.line_num}: not a row of a tab-separated label list ({error})") from None
    rows = [(number, row) for number, row in rows if any(row)]
    if not rows:
        raise InputError(f"{file}: the label list is empty; it needs the header '{' '.join(COLUMNS)}' and a row an event")
    header = rows[0][1]
    if missing := [column for column in COLUMNS if column not in header]:
        raise InputError(
            f"{file}, row {rows[0][0]}: no column {', '.join(map(repr, missing))}; the header reads {header}, and "
            f"needs, separated by tabs: {' '.join(COLUMNS)}"
        )
    if twice := [column for column in COLUMNS if header.count(column) > 1]:
        raise InputError(f"{file}, row {rows[0][0]}: the column {twice[0]!r} occurs more than once")
    found: dict[str, tuple[str, int, list[Event]]] = {}
    for number, row in rows[1:]:
        place = f"{file}, row {number}"
        if len(row) != len(header):
            raise InputError(f"{place}: {len(row)} fields where the header has {len(header)}")
        field = dict(zip(header, row, strict=True))
        path, scene = _checked_path(field["path"], place), field["scene_label"]
        if not scene:
            raise InputError(f"{place}: no scene_label")
        _known(scene, scenes, "scene", place)
        if path in found and found[path][0] != scene:
            raise InputError(
                f"{place}: {path} is in the scene {scene!r} here and in {found[path][0]!r} in row {found[path][1]}; "
                "a recording has one scene"
            )
        _, _, of_recording = found.setdefault(path, (scene, number, []))
        if not any(field[column] for column in COLUMNS[2:]):
            continue
        label = (renamed or {}).get(field["event_label"], field["event_label"])
        if not label:
            raise InputError(f"{place}: no event_label")
        _known(label, events, "event", place)
        onset_s = _seconds(field["event_start_time"], "event_start_time", place)
        offset_s = _seconds(field["event_end_time"], "event_end_time", place)
        if offset_s < onset_s:
            raise InputError(f"{place}: {label!r} ends at {offset_s:g} s, before it starts at {onset_s:g} s")
        of_recording.append(Event(onset_s, offset_s, label, number))
    if not found:
        raise InputError(f"{file}: the label list has a header and no row")
    return [Recording(path, scene, tuple(events)) for path, (scene, _, events) in found.items()]


def _checked_path(path: str, place: str) -> str:
    pure = pathlib.PurePosixPath(path.replace("\\", "/"))
    if not pure.parts or pure.is_absolute() or ".." in pure.parts:
        raise InputError(f"{place}: the path {path!r} does not lie below the folder of the recordings")
    return str(pure)


def _known(label: str, vocabulary: Sequence[str] | None, kind: str, place: str) -> None:
    if vocabulary is not None and label not in vocabulary:
        near = difflib.get_close_matches(label, vocabulary, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"known are: {', '.join(vocabulary)}"
        raise InputError(f"{place}: unknown {kind} {label!r}; {hint}")


def _seconds(text: str, column: str, place: str) -> float:
    try:
        value = float(text.replace("_", "no digit"))  # Python reads 1_0 as ten; a label list that says so is broken
    except ValueError:
        hint = "; write a point, not a comma" if "," in text else ""
        raise InputError(f"{place}: {column} {text!r} is no number of seconds{hint}") from None
    if not math.isfinite(value) or value < 0:
        raise InputError(f"{place}: {column} {text!r} is no time in a recording")
    return value
