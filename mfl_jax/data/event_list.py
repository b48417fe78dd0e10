"""Reads lists of events, whatever program or person wrote them, and finds which recordings of two lists are the same.

One file holds the events of one recording or of many; a folder holds a file a recording. Fields are separated by tabs or,
in a file without any tab, by commas. Times are seconds from the start of a recording. What a row holds is told by

- a header with a column for the onset (`onset`, `event_onset`, `event_start_time`), the offset (`offset`, `event_offset`,
  `event_end_time`), the label (`event_label`, `label`) and, unless the file is about one recording, for its name (`filename`,
  `file`, `path`), in any order; other columns are passed over. DESED, dcase_util and this project write such lists.
- without a header, its number of fields: `onset offset label` (an Audacity label track), `filename onset offset label` or
  `filename scene onset offset label`.

A recording without events is a row of its name alone, or one whose event fields are empty or NaN. In a list that does not name
recordings all events belong to the recording that is called as the file is.
"""

import csv
import io
import math
import pathlib
from collections.abc import Iterable

from mfl_jax.data.annotation import Event
from mfl_jax.data.event_rows import read_text
from mfl_jax.errors import InputError

COLUMNS = {
    "recording": ("filename", "file", "path"),
    "onset": ("onset", "event_onset", "event_start_time"),
    "offset": ("offset", "event_offset", "event_end_time"),
    "label": ("event_label", "label"),
}
"""What a column holds, and the names that it goes by."""
WITHOUT_HEADER = {
    3: ("onset", "offset", "label"),
    4: ("recording", "onset", "offset", "label"),
    5: ("recording", "scene", "onset", "offset", "label"),
}
"""What the fields of a row hold in a list without a header, by their number."""
SUFFIXES = (".txt", ".tsv", ".ann")
"""Files of a folder that are read."""
NOTHING = ("", "nan", "na", "n/a", "none", "null")
"""What is written, in any case, where a field holds nothing."""
# A name such as `Y0_350.000_360.000` holds points of its own, so that not whatever follows the last one is a suffix.
_NO_PART_OF_A_NAME = (
    ".wav", ".flac", ".ogg", ".opus", ".mp3", ".m4a", ".mp4", ".aac", ".aif", ".aiff", ".au", ".wma", *SUFFIXES, ".csv", ".lab",
    ".json", ".jams",
)  # fmt: skip


def read_event_list(file: str | pathlib.Path) -> dict[str, list[Event]]:
    """Reads a list of events.

    Args:
      file: the list, UTF-8 with or without a byte order mark; or a folder, in which every .txt, .tsv and .ann, also in folders
        below, is the list of one recording, called as the file is (with the folders below `file`, without the suffix). Where
        the rows of such a list name a recording themselves, that name counts.

    Returns:
      Recording -> its events, both in the order of the list. A file without any row is one recording without events.

    Raises:
      InputError: names the file, the row (the first is row 1) and the value at fault.
    """
    file = pathlib.Path(file)
    if not file.is_dir():
        found, named = _read(file, file.stem)
        return found if found or named else {file.stem: []}
    lists = sorted(path for path in file.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not lists:
        raise InputError(f"{file}: no event list in this folder; it needs a {', '.join(SUFFIXES)} a recording")
    recordings: dict[str, list[Event]] = {}
    source: dict[str, pathlib.Path] = {}
    for path in lists:
        name = path.relative_to(file).with_suffix("").as_posix()
        found, _ = _read(path, name)
        for recording, events in (found or {name: []}).items():
            if recording in recordings:
                raise InputError(f"{path}: the recording {recording!r} is in {source[recording]} too; it has one list")
            recordings[recording], source[recording] = events, path
    return recordings


def _read(file: pathlib.Path, own_name: str) -> tuple[dict[str, list[Event]], bool]:
    """What a file lists, and whether it has a column for the name of the recording."""
    rows = _rows(file)
    if not rows:
        return {}, False
    number, first = rows[0]
    header = _header(first, f"{file}, row {number}")
    if header is None:
        width = max(len(row) for _, row in rows)
        if width in (1, 2):  # names alone, perhaps with their scenes
            width = 4
        if width not in WITHOUT_HEADER:
            longest, row = next((number, row) for number, row in rows if len(row) == width)
            raise InputError(
                f"{file}, row {longest}: {len(row)} fields; without a header a row is 'onset offset label', 'filename onset "
                "offset label' or 'filename scene onset offset label', separated by tabs or commas"
            )
        header = {role: place for place, role in enumerate(WITHOUT_HEADER[width])}
        if len(first) == width and all(_nothing(field) or not _is_number(field) for field in first):
            _no_header(first, header, f"{file}, row {number}")
    else:
        width, rows = len(first), rows[1:]
    recordings: dict[str, list[Event]] = {}
    for number, row in rows:
        place = f"{file}, row {number}"
        row = [*row[:width], *(field for field in row[width:] if field)]  # separators at the end of a row mean nothing
        if len(row) > width:
            raise InputError(f"{place}: {len(row)} fields where there should be {width}")
        row = row + [""] * (width - len(row))
        name = row[header["recording"]] if "recording" in header else own_name
        if not name:
            raise InputError(f"{place}: no name of a recording")
        events = recordings.setdefault(name, [])
        onset, offset, label = (row[header[role]] for role in ("onset", "offset", "label"))
        if _nothing(onset) and _nothing(offset) and _nothing(label):
            continue
        onset_s, offset_s = _seconds(onset, "onset", place), _seconds(offset, "offset", place)
        if offset_s < onset_s:
            raise InputError(f"{place}: {label!r} ends at {offset_s:g} s, before it starts at {onset_s:g} s")
        if not label:
            raise InputError(f"{place}: no label of the event")
        events.append(Event(onset_s, offset_s, label, number))
    return recordings, "recording" in header


def _rows(file: pathlib.Path) -> list[tuple[int, list[str]]]:
    text = read_text(file, "event list")
    tabs = "\t" in text
    table = csv.reader(
        io.StringIO(text, newline=""), delimiter="\t" if tabs else ",", quoting=csv.QUOTE_NONE if tabs else csv.QUOTE_MINIMAL
    )
    try:
        rows = [(table.line_num, [field.strip() for field in row]) for row in table]
    except csv.Error as error:
        raise InputError(f"{file}, row {table.line_num}: not a row of an event list ({error})") from None
    # Audacity gives an event that is bound to frequencies a second row, which starts with a backslash.
    return [(number, row) for number, row in rows if any(row) and row[0] != "\\"]


def _header(row: list[str], place: str) -> dict[str, int] | None:
    """Where each column is; None if the row is no header."""
    names = [field.lower() for field in row]
    if not any(name in names for role in ("recording", "onset", "offset") for name in COLUMNS[role]):
        return None
    found = {}
    for role, known in COLUMNS.items():
        places = [place for place, name in enumerate(names) if name in known]
        if len(places) > 1:
            raise InputError(f"{place}: the columns {' and '.join(repr(row[i]) for i in places)} both hold the {role}; keep one")
        if places:
            found[role] = places[0]
        elif role != "recording":
            raise InputError(f"{place}: no column for the {role}; it is called {' or '.join(map(repr, known))}")
    return found


def _no_header(row: list[str], places: dict[str, int], where: str) -> None:
    if not all(_nothing(row[places[role]]) for role in ("onset", "offset", "label")):
        raise InputError(
            f"{where}: {row} is no event and no header; a header names the columns 'filename', 'onset', 'offset', 'event_label'"
        )


def _nothing(field: str) -> bool:
    return field.lower() in NOTHING


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _seconds(text: str, what: str, place: str) -> float:
    try:
        value = float(text.replace("_", "no digit"))  # Python reads 1_0 as ten
    except ValueError:
        hint = "; write a point, not a comma" if "," in text else ""
        raise InputError(f"{place}: the {what} {text!r} is no number of seconds{hint}") from None
    if not math.isfinite(value) or value < 0:
        raise InputError(f"{place}: the {what} {text!r} is no time in a recording")
    return value


def _parts(name: str) -> tuple[str, ...]:
    """The folders and the file of a name, without the suffix of an audio file or of a list."""
    path = pathlib.PurePosixPath(name.replace("\\", "/"))
    return path.with_suffix("").parts if path.suffix.lower() in _NO_PART_OF_A_NAME else path.parts


def match_recordings(estimated: Iterable[str], reference: Iterable[str], *, all_of_them: bool = True) -> dict[str, str]:
    """Finds the recording of the reference that each estimated one is.

    A name that is in the reference as it stands means that recording. Of the names that are left, two mean one recording if
    one of them ends with the other, folder by folder, and the suffix of an audio file or of a list does not count: `a001.txt` and
    `street/a001` are `audio/street/a001.wav`, `home/a001.wav` is not.

    Args:
      estimated, reference: names of recordings.
      all_of_them: whether names that are not in the reference are a mistake, or left out.

    Returns:
      Estimated name -> name in the reference.

    Raises:
      InputError: a name is not in the reference (unless it may be missing), or means several recordings, or two names mean one.
    """
    reference = dict.fromkeys(reference)
    matched = {name: name for name in estimated if name in reference}
    by_file: dict[str, list[str]] = {}
    for name in reference:
        if name not in matched:
            by_file.setdefault((_parts(name) or ("",))[-1], []).append(name)
    owner: dict[str, str] = {}
    for name in estimated:
        if name in matched:
            continue
        own = _parts(name)
        candidates = by_file.get((own or ("",))[-1], [])
        fitting = [other for other in candidates if _ends_alike(own, _parts(other))]
        if not fitting and not all_of_them:
            continue
        if not fitting:
            raise InputError(f"the estimated recording {name!r} is not in the reference")
        if len(fitting) > 1:
            raise InputError(
                f"the estimated recording {name!r} may be {fitting[0]!r} or {fitting[1]!r} of the reference; give the folder too"
            )
        if fitting[0] in owner:
            raise InputError(
                f"the estimated recordings {owner[fitting[0]]!r} and {name!r} are both {fitting[0]!r} of the reference"
            )
        owner[fitting[0]] = name
        matched[name] = fitting[0]
    return matched


def _ends_alike(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    length = min(len(one), len(other))
    return one[-length:] == other[-length:]
