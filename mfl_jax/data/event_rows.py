"""Reads tables of sound events: the parts that label lists and event lists share.

Rows are numbered as an editor shows them, starting at 1. Every error is one line that names the file, the row and the value.
"""

import csv
import dataclasses
import io
import math
import pathlib

from mfl_jax.data.annotation import Event
from mfl_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of a table.

    Attributes:
      number: line of the file, starting at 1.
      place: `FILE, row NUMBER`, the start of an error message.
      fields: without surrounding white space.
    """

    number: int
    place: str
    fields: list[str]


def read_text(file: pathlib.Path, kind: str) -> str:
    """Reads a UTF-8 text file, with or without a byte order mark.

    Args:
      file: the text file.
      kind: of file, for error messages, e.g. `label list`.

    Raises:
      InputError: the file is missing or not readable as UTF-8.
    """
    try:
        return file.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"{file}: no such {kind}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: not readable as UTF-8 text ({error})") from None


def parse_rows(text: str, file: pathlib.Path, kind: str, *, delimiter: str) -> list[Row]:
    """Splits a text into rows of fields and drops blank rows.

    Quotes are ordinary characters between tabs; between commas they enclose a field.

    Args:
      text: the table; line ends may be LF, CRLF or CR.
      file: the source of the text, for error messages.
      kind: of file, for error messages.
      delimiter: a tab or a comma.

    Raises:
      InputError: the csv module rejects a row.
    """
    table = csv.reader(
        io.StringIO(text, newline=""),
        delimiter=delimiter,
        quoting=csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL,
    )
    rows = []
    try:
        for row in table:
            fields = [field.strip() for field in row]
            if any(fields):
                rows.append(Row(table.line_num, f"{file}, row {table.line_num}", fields))
    except csv.Error as error:
        raise InputError(f"{file}, row {table.line_num}: not a row of the {kind} ({error})") from None
    return rows


def parse_event(onset: str, offset: str, label: str, row: Row, *, columns: tuple[str, str, str]) -> Event:
    """Parses the fields of one event.

    Args:
      onset, offset: seconds from the start of the recording.
      label: label of the event.
      row: the row that holds the fields.
      columns: names of the onset, offset and label columns, for error messages.

    Raises:
      InputError: a time is not a finite number >= 0, the offset is before the onset, or the label is empty.
    """
    onset_s, offset_s = parse_seconds(onset, columns[0], row), parse_seconds(offset, columns[1], row)
    if not label:
        raise InputError(f"{row.place}: the {columns[2]} is empty")
    if offset_s < onset_s:
        raise InputError(f"{row.place}: {label!r} ends at {offset_s:g} s, before it starts at {onset_s:g} s")
    return Event(onset_s, offset_s, label, row.number)


def parse_seconds(text: str, column: str, row: Row) -> float:
    """Parses a time in seconds.

    Args:
      text: the field.
      column: name of the column, for error messages.
      row: the row that holds the field.

    Raises:
      InputError: the field is not a finite number >= 0.
    """
    try:
        seconds = float(text.replace("_", "not a digit"))  # float("1_0") is 10.0
    except ValueError:
        hint = "; write a decimal point, not a comma" if "," in text else ""
        raise InputError(f"{row.place}: the {column} {text!r} is not a number of seconds{hint}") from None
    if not math.isfinite(seconds) or seconds < 0:
        raise InputError(f"{row.place}: the {column} {text!r} must be finite and >= 0")
    return seconds
