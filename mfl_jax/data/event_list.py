"""Reads lists of sound events, and of scenes, in the common formats.

A file holds the events of one recording or of many; a folder holds one file per recording. Fields are separated by tabs, or by
commas if the file contains no tab, and quoted as `event_rows` says. Times are seconds from the start of a recording. The columns
are given by

- a header, in any order: an onset (`onset`, `event_onset`, `event_start_time`), an offset (`offset`, `event_offset`,
  `event_end_time`), a label (`event_label`, `label`), if the file covers several recordings, the recording (`filename`, `file`,
  `path`), and perhaps the `scene_label` and the `group` of the recording. Other columns are ignored. A `#` in front of the header
  is ignored. DESED, dcase_util and this project write such lists. The caller may give other names.
- the header of a Raven selection table: see `raven`.
- without a header, the number of fields: `onset offset label` (an Audacity label track), `filename onset offset label` or
  `filename scene onset offset label`.

A recording without events has one row with its name alone, or with event fields that are empty or NaN. A name alone must have the
suffix of an audio file or consist of one word, so that a comment or an event between other separators is not taken for one. If a
list does not name recordings, all its events belong to the recording with the name of the file. The label `?` without times says
that the events of a recording are not annotated, as in `label_list`.

Names and labels that look the same are the same: see `spelling`.
"""

import dataclasses
import os
import pathlib
import re
from collections.abc import Collection, Mapping, Sequence

from mfl_jax.data import event_rows, match_recordings, raven, spelling
from mfl_jax.data.annotation import NOT_ANNOTATED, Event, Recording
from mfl_jax.data.event_rows import Row
from mfl_jax.data.recording_rows import RecordingRows
from mfl_jax.errors import InputError
from mfl_jax.runtime import folder_walk

COLUMNS: dict[str, tuple[str, ...]] = {
    "recording": ("filename", "file", "path"),
    "onset": ("onset", "event_onset", "event_start_time"),
    "offset": ("offset", "event_offset", "event_end_time"),
    "label": ("event_label", "label"),
    "scene": ("scene_label",),
    "group": ("group",),
}
"""Role of a column -> its names in a header, in lower case."""
EVENT_ROLES = ("onset", "offset", "label")
ROLES_WITHOUT_HEADER: dict[int, tuple[str, ...]] = {
    3: EVENT_ROLES,
    4: ("recording", *EVENT_ROLES),
    5: ("recording", "scene", *EVENT_ROLES),
}
"""Number of fields in a list without a header -> their roles."""
FORMS = "'onset offset label', 'filename onset offset label' or 'filename scene onset offset label', separated by tabs or commas"
"""The rows of a list without a header, for error messages."""
SUFFIXES = (".txt", ".tsv", ".ann", ".csv")
"""Files to read in a folder."""
EMPTY = ("", "nan", "na", "n/a", "none", "null")
"""Spellings of an empty field, in lower case."""
HEADER_NAMES = frozenset(name for names in COLUMNS.values() for name in names)


@dataclasses.dataclass(frozen=True)
class _Layout:
    """The columns of a list: role -> position, and the number of fields per row."""

    positions: dict[str, int]
    width: int


@dataclasses.dataclass(frozen=True)
class Wanted:
    """How to read a list: the names of its columns and the labels it may contain.

    Attributes:
      columns: maps the role of a column (a key of `COLUMNS`) to its name in the header, if that is not one of `COLUMNS`. Every
        list must then have a header with these columns.
      scenes: the known scenes, in the spelling to return; any other scene is an error. None accepts every scene.
      events: the same for events.
    """

    columns: Mapping[str, str] = dataclasses.field(default_factory=dict)
    scenes: Sequence[str] | None = None
    events: Sequence[str] | None = None


def read_event_list(file: str | pathlib.Path) -> dict[str, list[Event]]:
    """Reads the events of a list; arguments and errors as for `read_recordings`.

    Returns:
      Recording -> its events, both in the order of the list. Recordings whose events are not annotated have none.
    """
    return {recording.path: list(recording.events) for recording in read_recordings(file)}


def read_recordings(
    file: str | pathlib.Path, wanted: Wanted = Wanted(), *, left_out: Collection[pathlib.Path] = ()
) -> list[Recording]:
    """Reads a list.

    Args:
      file: the list, UTF-8 with or without a byte order mark; or a folder. In a folder, every .txt, .tsv, .ann and .csv file,
        also in subfolders and linked folders, but not hidden, is the list of one recording, named after its path below the
        folder without the suffix. Recordings named by the rows of such a file take precedence.
      wanted: columns and vocabularies.
      left_out: files of the folder that are not read.

    Returns:
      The recordings in the order of the list, under the names that the list gives them. A file without rows is one recording
      without events.

    Raises:
      InputError: names the file, the row (the first is row 1) and the value at fault.
    """
    file = pathlib.Path(file)
    if not file.is_dir():
        return _read_file(file, spelling.normalise_name(file.stem), wanted)
    entries = sorted(folder_walk.walk_folder(file))
    if unreadable := [path for path, is_file in entries if not is_file]:
        raise InputError(f"{unreadable[0]}: not readable (a folder without permission, or a link that leads nowhere)")
    lists = [path for path, _ in entries if path.suffix.lower() in SUFFIXES]
    if left_out:
        others = set(map(os.path.realpath, left_out))
        lists = [path for path in lists if os.path.realpath(path) not in others]
    if not lists:
        raise InputError(f"{file}: no event list in this folder; it needs one {', '.join(SUFFIXES)} file per recording")
    merged: dict[str, Recording] = {}
    source: dict[str, pathlib.Path] = {}
    for path in lists:
        name = spelling.normalise_name(path.relative_to(file).with_suffix("").as_posix())
        for recording in _read_file(path, name, wanted) or [Recording(name, "", ())]:
            if recording.path in merged:
                raise InputError(
                    f"{path}: the recording {recording.path!r} is also in {source[recording.path]}; keep one list of it"
                )
            merged[recording.path], source[recording.path] = recording, path
    return list(merged.values())


def _read_file(file: pathlib.Path, default_recording: str, wanted: Wanted) -> list[Recording]:
    """Returns the recordings of a file. None only if it has a column for the recording, but no rows."""
    rows = _read_rows(file)
    header = [field.lower() for field in rows[0].fields] if rows else []
    layout = _parse_header(rows[0], wanted.columns) if rows else None
    if layout is None:
        layout = _infer_layout(rows) if rows else _Layout({}, 0)
    elif raven.is_selection_table(header):
        rows, default_recording = raven.correct_rows(header, rows[1:], layout.positions), raven.name_recording(default_recording)
    else:
        rows = rows[1:]
    collected = RecordingRows(EVENT_ROLES, scenes=wanted.scenes, events=wanted.events)
    for row in rows:
        _add_row(collected, row, layout, default_recording)
    return collected.recordings() or ([] if "recording" in layout.positions else [Recording(default_recording, "", ())])


def _add_row(collected: RecordingRows, row: Row, layout: _Layout, default_recording: str) -> None:
    """Adds a row to those of its recording."""
    fields = _fit_fields(row, layout.width)
    texts = {role: fields[position] for role, position in layout.positions.items()}
    recording = texts.pop("recording", default_recording)
    if not recording:
        raise InputError(f"{row.place}: the name of the recording is empty")
    texts |= {role: "" for role in ("scene", "group") if _is_empty(texts.get(role, ""))}
    if all(_is_empty(texts[role]) or texts[role] == NOT_ANNOTATED for role in EVENT_ROLES):
        is_annotated = texts["label"] != NOT_ANNOTATED
        texts |= {"onset": "", "offset": "", "label": "" if is_annotated else NOT_ANNOTATED}
        if is_annotated and "recording" in layout.positions:
            first_event_field = min(layout.positions[role] for role in EVENT_ROLES)
            _check_name_without_events(recording, row, is_alone=len(row.fields) <= first_event_field)
    collected.add(spelling.normalise_name(recording), row, **texts)


def _check_name_without_events(name: str, row: Row, *, is_alone: bool) -> None:
    """Refuses a row without event fields if its name is an event between other separators or, alone in its row, a comment."""
    has_suffix = name.lower().endswith(match_recordings.SUFFIXES)
    hint = "" if has_suffix else event_rows.suggest_separator(name, HEADER_NAMES)
    is_odd = name.startswith("#") or (not has_suffix and re.search(r"[\s;,|]", name))
    if hint or (is_alone and is_odd):
        hint = hint or f"; a row must be {FORMS}, or the name of a recording without events, e.g. 'a.wav'; delete comments"
        raise InputError(f"{row.place}: {name[:80]!r} is neither an event nor the name of a recording{hint}")


def _read_rows(file: pathlib.Path) -> list[Row]:
    text = event_rows.read_text(file, "event list")
    rows = event_rows.parse_rows(text, file, "event list", delimiter="\t" if "\t" in text else ",")
    # Audacity writes the frequency range of an event as a second row, which starts with a backslash.
    return [row for row in rows if row.fields[0] != "\\"]


def _fit_fields(row: Row, width: int) -> list[str]:
    """Pads the fields of a row to `width`; drops empty ones past it, which trailing separators produce."""
    fields = [*row.fields[:width], *(field for field in row.fields[width:] if field)]
    if len(fields) > width:
        hint = event_rows.suggest_separator(row.text)
        raise InputError(f"{row.place}: {len(fields)} fields, expected {width}{hint}: {row.text[:80]!r}")
    return fields + [""] * (width - len(fields))


def _parse_header(row: Row, columns: Mapping[str, str]) -> _Layout | None:
    """Returns the layout that a header gives; None if the row is not a header."""
    names = [field.lower() for field in row.fields]
    names[0] = names[0].lstrip("# ")
    is_raven = raven.is_selection_table(names)
    known_names = COLUMNS | (raven.COLUMNS if is_raven else {}) | {role: (name.lower(),) for role, name in columns.items()}
    if (
        not columns
        and not is_raven
        and not any(name in names for role in ("recording", "onset", "offset") for name in COLUMNS[role])
    ):
        return None
    positions = {}
    for role, known in known_names.items():
        matches = [position for name in known for position in range(len(names)) if names[position] == name]
        if len(matches) > 1 and not is_raven:
            found = " and ".join(repr(row.fields[position]) for position in sorted(matches))
            raise InputError(f"{row.place}: the columns {found} both hold the {role}; keep one")
        if matches:
            positions[role] = matches[0]
        elif role in columns:
            hint = event_rows.suggest_separator(row.text, [name.lower() for name in columns.values()])
            raise InputError(f"{row.place}: no column {columns[role]!r} for the {role}; the header is {row.fields}{hint}")
        elif role in EVENT_ROLES:
            raise InputError(f"{row.place}: no column for the {role}; name it {' or '.join(map(repr, known))}")
    return _Layout(positions, len(names))


def _infer_layout(rows: list[Row]) -> _Layout:
    """Returns the layout of a list without a header, from its longest row."""
    width = max(len(row.fields) for row in rows)
    if width in (1, 2):  # only names, perhaps with scenes
        if times := [row for row in rows if any(map(event_rows.NUMBER.fullmatch, row.fields))]:
            raise InputError(f"{times[0].place}: {times[0].text[:80]!r} is not an event; a row must be {FORMS}")
        width += 3
    if width not in ROLES_WITHOUT_HEADER:
        longest = next(row for row in rows if len(row.fields) == width)
        raise InputError(
            f"{longest.place}: {width} fields; without a header a row must be {FORMS}"
            f"{event_rows.suggest_separator(longest.text)}: {longest.text[:80]!r}"
        )
    layout = _Layout({role: position for position, role in enumerate(ROLES_WITHOUT_HEADER[width])}, width)
    for row in rows if width == 5 else ():
        if event_rows.NUMBER.fullmatch(scene := "".join(row.fields[1:2])):
            raise InputError(f"{row.place}: the scene {scene!r} is a number; a row must be {FORMS}; write decimal points")
    first = rows[0].fields
    has_times = any(not _is_empty(field) and _is_number(field) for field in first)
    texts = [first[layout.positions[role]] for role in EVENT_ROLES] if len(first) == width else []
    if not has_times and not all(_is_empty(text) or text == NOT_ANNOTATED for text in texts):
        hint = event_rows.suggest_separator(rows[0].text, HEADER_NAMES)
        raise InputError(
            f"{rows[0].place}: {first} is neither an event nor a header{hint}; a header names the columns 'filename', 'onset', "
            "'offset', 'event_label'"
        )
    return layout


def _is_empty(field: str) -> bool:
    return field.lower() in EMPTY


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
