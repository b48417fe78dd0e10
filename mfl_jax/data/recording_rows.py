"""Joins the rows of each recording of a list, and checks that they agree."""

from collections.abc import Mapping

from mfl_jax.data import event_rows
from mfl_jax.data.annotation import NOT_ANNOTATED, Event, Recording
from mfl_jax.data.event_rows import Row
from mfl_jax.errors import InputError


class RecordingRows:
    """Collects the rows of a list, recording by recording."""

    def __init__(self, columns: tuple[str, str, str]):
        """Starts with no rows.

        Args:
          columns: names of the onset, offset and label columns, for error messages.
        """
        self._columns = columns
        self._first_rows: dict[str, tuple[Mapping[str, str], Row]] = {}
        self._events: dict[str, list[Event]] = {}
        self._unannotated: dict[str, Row] = {}
        self._annotated: dict[str, Row] = {}

    def add(self, path: str, row: Row, *, onset: str, offset: str, label: str, **texts: str) -> None:
        """Adds a row.

        Args:
          path: name of the recording.
          row: the row.
          onset, offset, label: of its event. All three empty: the recording has no events, or other rows hold them. `?` alone:
            its events are not annotated.
          **texts: `scene` and `group` of the recording, in their final spelling.

        Raises:
          InputError: the event is invalid, or another row of the recording contradicts this one.
        """
        first_texts, first_row = self._first_rows.setdefault(path, (texts, row))
        for kind, value in texts.items():
            if value != first_texts[kind]:
                raise InputError(
                    f"{row.place}: {path} has the {kind} {value!r} here and {first_texts[kind]!r} in row {first_row.number}; "
                    f"a recording has one {kind}"
                )
        events = self._events.setdefault(path, [])
        if label == NOT_ANNOTATED:
            if onset or offset:
                raise InputError(
                    f"{row.place}: the {self._columns[2]} {label!r} means that events are not annotated, but the row has times "
                    f"({onset!r}, {offset!r}); leave them empty"
                )
            self._unannotated.setdefault(path, row)
        else:
            self._annotated.setdefault(path, row)
            if onset or offset or label:
                events.append(event_rows.parse_event(onset, offset, label, row, columns=self._columns))
        if path in self._unannotated and path in self._annotated:
            raise InputError(
                f"{row.place}: row {self._unannotated[path].number} says that the events of {path} are not annotated "
                f"({NOT_ANNOTATED!r}), but row {self._annotated[path].number} annotates them; keep one of both"
            )

    def recordings(self) -> list[Recording]:
        """Returns the recordings in the order of their first rows."""
        return [
            Recording(path, texts["scene"], tuple(self._events[path]), texts["group"], path not in self._unannotated)
            for path, (texts, _) in self._first_rows.items()
        ]
