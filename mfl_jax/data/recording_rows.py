"""Joins the rows of each recording of a list, and checks that they agree."""

import difflib
from collections.abc import Mapping, Sequence

from mfl_jax.data import event_rows, spelling
from mfl_jax.data.annotation import NOT_ANNOTATED, Event, Recording
from mfl_jax.data.event_rows import Row
from mfl_jax.errors import InputError


class RecordingRows:
    """Collects the rows of a list, recording by recording."""

    def __init__(
        self, columns: tuple[str, str, str], *, scenes: Sequence[str] | None = None, events: Sequence[str] | None = None
    ):
        """Starts with no rows.

        Args:
          columns: names of the onset, offset and label columns, for error messages.
          scenes: allowed scenes, whose spelling the result has; None allows any.
          events: allowed events, likewise.
        """
        self._columns, self._vocabularies = columns, {"scene": scenes, "event": events}
        self._first_rows: dict[str, tuple[Mapping[str, str], Row]] = {}
        self._events: dict[str, list[Event]] = {}
        self._unannotated: dict[str, Row] = {}
        self._annotated: dict[str, Row] = {}

    def add(self, path: str, row: Row, *, onset: str, offset: str, label: str, scene: str, group: str) -> None:
        """Adds a row.

        Args:
          path: name of the recording.
          row: the row.
          onset, offset, label: of its event. All three empty: the recording has no events, or other rows hold them. The label `?`
            without times: its events are not annotated.
          scene: of the recording; empty or `?` if it is not annotated.
          group: of the recording; empty for none.

        Raises:
          InputError: the event is invalid, a label is unknown, or another row of the recording contradicts this one.
        """
        scene, label = self._spell_label(scene, "scene", row), self._spell_label(label, "event", row)
        texts = {"scene": "" if scene == NOT_ANNOTATED else scene, "group": spelling.normalise_label(group)}
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

    def _spell_label(self, label: str, kind: str, row: Row) -> str:
        """Returns a label in the spelling of the vocabulary, or in normal form without one."""
        vocabulary, normal = self._vocabularies[kind], spelling.normalise_label(label)
        if vocabulary is None or normal in ("", NOT_ANNOTATED):
            return normal
        if (known := spelling.find_label(label, vocabulary)) is None:
            similar = difflib.get_close_matches(label, vocabulary, 1)
            hint = f"did you mean {similar[0]!r}?" if similar else f"known: {', '.join(vocabulary)}"
            raise InputError(f"{row.place}: unknown {kind} {label!r}; {hint}")
        return known
