"""Reads tables of sound events: the parts that label lists and event lists share.

Rows are numbered as an editor shows them, starting at 1. Every error is one line that names the file, the row and the value.

Quoting is that of the csv module, Excel and pandas, whatever the separator: a field that starts with a double quote ends with
one, and quotes inside it are doubled. Quotes elsewhere in a field are ordinary characters. No field holds a line break.
"""

import csv
import dataclasses
import io
import math
import pathlib
import re
from collections.abc import Collection

from mfl_jax.data.annotation import Event
from mfl_jax.errors import InputError

SEPARATORS = {";": "';'", ",": "','", "|": "'|'", " ": "spaces"}
"""Separators that a table may have instead of tabs -> their names in messages."""
NUMBER = re.compile(r"[+-]?(\d+[.,]?\d*|[.,]\d+)([eE][+-]?\d+)?")
"""A number of seconds, with a decimal point or comma."""


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of a table.

    Attributes:
      number: line of the file, starting at 1.
      place: `FILE, row NUMBER`, the start of an error message.
      text: the row as it is in the file.
      fields: without surrounding white space.
    """

    number: int
    place: str
    text: str
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
    except OSError as error:
        raise InputError(f"{file}: not readable ({error.strerror or error})") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: not readable as UTF-8 text ({error})") from None


def parse_rows(text: str, file: pathlib.Path, kind: str, *, delimiter: str) -> list[Row]:
    """Splits a text into rows of fields and drops blank rows.

    Args:
      text: the table; line ends may be LF, CRLF or CR.
      file: the source of the text, for error messages.
      kind: of file, for error messages.
      delimiter: a tab or a comma.

    Raises:
      InputError: the quotes of a row do not enclose whole fields, or the csv module rejects it for another reason.
    """
    rows = []
    for number, line in enumerate(io.StringIO(text, newline=None), 1):
        place, line = f"{file}, row {number}", line.rstrip("\n")
        try:
            # Row by row, because a quote that is not closed would swallow the rows below it.
            (cells,) = csv.reader([line], delimiter=delimiter, strict=True, skipinitialspace=True)
        except csv.Error as error:
            hint = "; a field in double quotes must end with one, and quotes inside it are doubled" if '"' in line else ""
            raise InputError(f"{place}: not a row of the {kind} ({error}){hint}: {line[:80]!r}") from None
        fields = [cell.strip() for cell in cells]
        if any(fields):
            rows.append(Row(number, place, line, fields))
    return rows


def suggest_separator(text: str, columns: Collection[str] = ()) -> str:
    """Returns advice if a text would be an event, or a header, were its fields separated by something else than tabs; else "".

    Args:
      text: a row, or a field of one.
      columns: names of columns, in lower case; two of them make a header.
    """
    for separator, name in SEPARATORS.items():
        fields = [field.strip(' "') for field in text.split(separator)]
        if separator == " ":
            fields = [field for field in fields if field]
        times = [NUMBER.fullmatch(field) is not None for field in fields]
        is_event = any(times[i] and times[i + 1] and fields[i + 2] for i in range(len(fields) - 2))
        if is_event or len({field.lower() for field in fields} & set(columns)) > 1:
            return f"; it looks separated by {name}; use tabs"
    return ""


def parse_event(onset: str, offset: str, label: str, row: Row, *, columns: tuple[str, str, str]) -> Event:
    """Parses the fields of one event.

    Args:
      onset, offset: seconds from the start of the recording.
      label: label of the event, in its final spelling.
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
        hint = suggest_separator(row.text) or ("; write a decimal point, not a comma" if "," in text else "")
        raise InputError(f"{row.place}: the {column} {text!r} is not a number of seconds{hint}") from None
    if not math.isfinite(seconds) or seconds < 0:
        raise InputError(f"{row.place}: the {column} {text!r} must be finite and >= 0")
    return seconds
