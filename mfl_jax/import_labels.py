"""Makes label lists of this project from the label files of other programs.

python -m mfl_jax.import_labels SOURCE --out=DIR [--recordings=DIR] [--split=0.8 --group=folder]
python -m mfl_jax.import_labels LIST CORRECTED --out=DIR

SOURCE is a list or a folder of lists: Audacity label tracks, Raven selection tables, tables with named columns, lists of DESED
and dcase_util, label lists of this project. Of several, later ones correct earlier ones.
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from absl import flags

from mfl_jax.errors import InputError, join_first, warn
from mfl_jax.runtime import commandline

if TYPE_CHECKING:  # imported where they are used, so that --help and wrong flags answer at once
    import rich.console

    from mfl_jax.data.annotation import Recording
    from mfl_jax.data.label_counts import Count
    from mfl_jax.data.label_import import Labelled

ALL = "all"
"""Name of the only list, without --split."""
SPLITS = ("development", "evaluation")
"""Names of the lists with --split."""
ROLES = ("recording", "onset", "offset", "label")


def define_flags() -> None:
    """Defines the flags of the command."""
    flags.DEFINE_string("out", None, "Folder for the label lists, for --config.manual_dir.")
    flags.DEFINE_string(
        "recordings", None, "Folder of the recordings; by default the first SOURCE, or its folder if it is a list."
    )
    flags.DEFINE_list(
        "columns", [], "Columns of recording, start, end and class, e.g. filename,start,end,class. The first may be "
        "left out if each list is about one recording."
    )  # fmt: skip
    flags.DEFINE_float("split", None, "Share of the recordings to train on, e.g. 0.8; the others are to score.")
    flags.DEFINE_string("group", None, "Location or session, kept together: folder, pattern:REGEX (file name) or column:NAME.")
    flags.DEFINE_string("scene", None, "Scene of each recording, if the labels name none: as for --group.")


def run(arguments: list[str]) -> int:
    """Runs the command; returns the exit status."""
    if not arguments:
        raise InputError("name a list or a folder of labels; of several, later ones correct earlier ones")
    if (share := flags.FLAGS.split) is not None and not 0 < share < 1:
        raise InputError(f"--split={share:g}: must be above 0 and below 1, e.g. 0.8")
    columns = _name_columns()
    import rich.console

    from mfl_jax.data import event_list, label_import, label_split
    from mfl_jax.runtime import storage

    sources = [storage.expand_path(argument) for argument in arguments]
    out = flags.FLAGS.out and storage.expand_path(flags.FLAGS.out)
    root = storage.expand_path(flags.FLAGS.recordings or _guess_root(sources[0]))
    own_lists = [label_import.list_file(out, name) for name in (ALL, *SPLITS)] if out else []
    labelled = label_import.find_labelled(sources, root, event_list.Wanted(columns), left_out=own_lists)
    recordings = labelled.recordings
    for field in ("scene", "group"):
        if rule := flags.FLAGS[field].value:
            recordings = label_import.name_recordings(recordings, field, rule)
    lists: dict[str, list[Recording]] = {}
    if share is not None:
        lists = dict(zip(SPLITS, label_split.split_recordings(recordings, labelled.seconds, share), strict=True))
    console = rich.console.Console()
    _print_tables(console, recordings, lists, labelled.seconds)
    _warn_of_differences(labelled, root)
    if out:
        for file in label_import.write_label_lists(out, root, lists or {ALL: recordings}):
            console.print(f"written: {file}", soft_wrap=True, highlight=False, markup=False)
    return 0


def _name_columns() -> dict[str, str]:
    """Returns the columns that flags name, by role."""
    from mfl_jax.data import label_import

    names = flags.FLAGS.columns
    if names and (len(names) not in (3, 4) or not all(names) or len({name.lower() for name in names}) < len(names)):
        raise InputError(f"--columns={','.join(names)}: must be three or four names, e.g. filename,start,end,class")
    columns = dict(zip(ROLES[-len(names) :], names, strict=True)) if names else {}
    for field in ("scene", "group"):
        rule = flags.FLAGS[field].value
        if rule is not None and (column := label_import.parse_name_rule(field, rule)[0]):
            columns[field] = column
    return columns


def _guess_root(source: pathlib.Path) -> pathlib.Path:
    """Returns the folder of the recordings: that of the labels, or the one above the folder `meta` of label lists."""
    if source.is_dir():
        return source
    return source.parent.parent if source.parent.name == "meta" else source.parent


def _warn_of_differences(labelled: Labelled, root: pathlib.Path) -> None:
    if names := labelled.corrected:
        warn(f"labels of {len(names)} recordings are replaced by those of a later source: {join_first(names)}")
    if names := labelled.without_labels:
        warn(f"{len(names)} recordings in {root} have no labels and are left out: {join_first(names)}")
    if names := labelled.without_recording:
        warn(f"labels of {len(names)} recordings are left out, because {root} has no such recording: {join_first(names)}")


def _print_tables(
    console: rich.console.Console,
    recordings: Sequence[Recording],
    lists: Mapping[str, Sequence[Recording]],
    seconds: Mapping[str, float],
) -> None:
    """Prints the size of each list and the counts of each class."""
    from mfl_jax.data import label_counts

    parts = {"all": recordings, **lists}
    for title, part in parts.items():
        minutes, groups = sum(seconds[recording.path] for recording in part) / 60, {recording.group for recording in part} - {""}
        facts = [f"{title}: {len(part)} recordings, {minutes:.1f} minutes{f', {len(groups)} groups' if groups else ''}"]
        scenes, events = sum(not r.scene for r in part), sum(not r.events_annotated for r in part)
        facts += [f"{kind} not annotated in {count}" for kind, count in (("scene", scenes), ("events", events)) if count]
        console.print("; ".join(facts), highlight=False, markup=False, soft_wrap=True)
    _print_counts(console, "scene", {title: label_counts.count_scenes(part, seconds) for title, part in parts.items()})
    _print_counts(console, "event", {title: label_counts.count_events(part) for title, part in parts.items()})


def _print_counts(console: rich.console.Console, kind: str, counts: Mapping[str, Mapping[str, Count]]) -> None:
    """Prints one row per class; `all` has all classes, and the other parts add their recordings and their share of minutes."""
    import rich.markup
    import rich.table

    table, parts = rich.table.Table(), [title for title in counts if title != "all"]
    table.add_column(kind, overflow="fold")
    names = ["recordings", *(["events"] if kind == "event" else []), "minutes"]
    for name in names:
        table.add_column(name, justify="right")
    for part in parts:
        table.add_column(f"{part}\n(% of minutes)", justify="right")
    for label, total in counts["all"].items():
        cells = [str(total.recordings), *([str(total.events)] if kind == "event" else []), f"{total.minutes:.1f}"]
        for part in parts:
            recordings, _, minutes = counts[part].get(label, (0, 0, 0.0))
            cells.append(f"{recordings} ({100 * minutes / total.minutes if total.minutes else 0:.0f} %)")
        table.add_row(rich.markup.escape(label), *cells)
    if counts["all"]:
        console.print(table)


if __name__ == "__main__":
    define_flags()
    commandline.run_with_arguments(run)
