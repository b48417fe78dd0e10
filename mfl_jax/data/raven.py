"""The columns and rows of Raven selection tables, as Raven and BirdNET write them.

A table is tab-separated. It has one row per selection and view, so a selection in the waveform and in the spectrogram occurs
twice. Times are seconds from the start of what was open in Raven: one file, or several as one long recording. Then
`File Offset (s)` holds the start of a selection within its own file.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence

from mfl_jax.data import event_rows
from mfl_jax.data.event_rows import Row
from mfl_jax.errors import InputError

COLUMNS: dict[str, tuple[str, ...]] = {
    "recording": ("begin path", "begin file"),
    "onset": ("begin time (s)",),
    "offset": ("end time (s)",),
    "label": ("annotation", "event_label", "label", "species", "common name", "class", "tags"),
}
"""Role of a column -> its names in lower case; the first one that a table has counts."""
FILE_OFFSET = "file offset (s)"
NAME_END = re.compile(r"(\.BirdNET|\.Table\.\d+)?\.selections?(\.table)?$", re.IGNORECASE)
"""The end of a table's file name, after the name of the recording."""


def is_selection_table(names: Sequence[str]) -> bool:
    """Returns whether a table is Raven's, by the names of its columns in lower case."""
    return COLUMNS["onset"][0] in names and COLUMNS["offset"][0] in names


def name_recording(name: str) -> str:
    """Returns the name of the recording of a table that names none, from the name of the table without its suffix."""
    return NAME_END.sub("", name)


def correct_rows(names: Sequence[str], rows: Sequence[Row], positions: Mapping[str, int]) -> list[Row]:
    """Drops the second views of selections, and makes times count from the start of each file.

    Args:
      names: of the columns, in lower case.
      rows: below the header.
      positions: role of a column -> its position.

    Raises:
      InputError: a time is not a number, or the table has several files but no column with the start within each file.
    """
    place = {name: position for position, name in enumerate(names)}
    onset, offset = positions["onset"], positions["offset"]
    views: dict[tuple[str, ...], str] = {}
    first_file = ""
    corrected = []
    for row in rows:
        fields = row.fields + [""] * (len(names) - len(row.fields))
        if {"selection", "view"} <= place.keys():
            selection = (fields[place["selection"]], fields[onset], fields[offset])
            if views.setdefault(selection, fields[place["view"]]) != fields[place["view"]]:
                continue
        if FILE_OFFSET in place:
            begin, end = (event_rows.parse_seconds(fields[column], names[column], row) for column in (onset, offset))
            start = event_rows.parse_seconds(fields[place[FILE_OFFSET]], FILE_OFFSET, row)
            fields[onset], fields[offset] = repr(start), repr(round(start + end - begin, 9))
        elif "recording" in positions:
            file = fields[positions["recording"]]
            first_file = first_file or file
            if file != first_file:
                raise InputError(
                    f"{row.place}: times of {file!r} count from the start of {first_file!r}, as Raven had both open; add the "
                    "column 'File Offset (s)' in Raven and save the table again"
                )
        corrected.append(dataclasses.replace(row, fields=fields))
    return corrected
