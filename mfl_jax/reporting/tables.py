"""The tables of an experiment as Markdown, CSV and LaTeX."""

import csv
import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mfl_jax.reporting import paper
from mfl_jax.reporting.paper import SCORES

Table = list[list[str]]
"""Rows of texts; the first row is the header."""


def capitalise(text: str) -> str:
    """Capitalises the first letter alone, which str.capitalize does not."""
    return text[:1].upper() + text[1:]


def format_system(system: str, alpha: float | None, sweep: Mapping[str, float] | None = None) -> str:
    """Formats the name of a system, with alpha if the experiment varies it, and a swept field if it is not the system's own."""
    varied = ({} if alpha is None else {"alpha": alpha}) | dict(sweep or {})
    return ", ".join(
        [paper.TITLES.get(system, system.replace("_", " ")), *(f"{name} {value:g}" for name, value in varied.items())]
    )


def format_mean(summary: Mapping[str, Any] | None) -> str:
    """Formats a mean with the half width of its 95 % confidence interval, if it has one; "" for None."""
    if summary is None:
        return ""
    if summary["interval"] is None:
        return f"{summary['mean']:.2f}"
    return f"{summary['mean']:.2f} ± {(summary['interval'][1] - summary['interval'][0]) / 2:.2f}"


def _format_number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def build_table_iv(results: Mapping[str, Any]) -> Table:
    """The four scores and the error rate of each system, with confidence intervals, floors, and the paper's results.

    Args:
      results: of an experiment, as `summary.summarise_experiment` returns them; also for the tables below.
    """
    table = [["System", "Runs", *(f"{capitalise(title)} [%]" for title in SCORES.values()), "Event error rate"]]
    for row in results["rows"]:
        cells = [format_mean(row.get(task, {}).get(name)) for task, name in SCORES]
        error_rate = format_mean(row.get("event", {}).get("error_rate"))
        table.append([format_system(row["system"], row["alpha"], row["sweep"]), str(len(row["seeds"])), *cells, error_rate])
    table += _list_floors(results["floors"])
    for system, scores in paper.TABLE_IV.items():
        if any(row["system"] == system for row in results["rows"]):
            cells = [_format_number(scores.get(task, {}).get(name)) for task, name in SCORES]
            table.append([f"Paper: {paper.TITLES[system]}", "10", *cells, ""])
    return table


def build_interval_table(results: Mapping[str, Any]) -> Table:
    """Means with their two 95 % confidence intervals, over seeds and over recordings; a missing interval is an empty cell."""
    titles = {score: f"{capitalise(title)} [%]" for score, title in SCORES.items()}
    titles["event", "error_rate"] = "Event error rate"
    table = [["System", "Score", "Mean", "95 % over seeds", "95 % over recordings"]]
    for row in results["rows"]:
        system = format_system(row["system"], row["alpha"], row["sweep"])
        for (task, name), title in titles.items():
            if (summary := row.get(task, {}).get(name)) is not None:
                intervals = [_format_interval(summary[key], "") for key in ("interval", "recordings_interval")]
                table.append([system, title, f"{summary['mean']:.2f}", *intervals])
    return table


def _format_interval(interval: Sequence[float] | None, sign: str) -> str:
    return "" if interval is None else f"{interval[0]:{sign}.2f} to {interval[1]:{sign}.2f}"


def _list_floors(floors: Mapping[str, Any]) -> Table:
    """Rows of Table IV for the floors."""
    titles = {
        "oracle_scene": "Floor: true scene known",
        "always_on": "Floor: every event always",
        "all_off": "Floor: no event ever",
    }
    rows = []
    if "scene" in floors:
        scene = floors["scene"]["majority"]
        rows = [
            ["Floor: most frequent scene", "", _format_number(scene["micro_f"]), _format_number(scene["macro_f"]), "", "", ""]
        ]
    events = floors.get("event", {})
    for kind, title in titles.items():
        if kind in events:
            cells = [_format_number(events[kind][name]) for name in ("micro_f", "macro_f", "error_rate")]
            rows.append([title, "", "", "", *cells])
    return rows


def build_table_v(results: Mapping[str, Any]) -> Table:
    """The mean F of events, percent: of the paper's selection if the data have all of it, otherwise of every event.

    Beside it, how many development recordings have the event. Each event is a column, or a row if there are more events than
    systems.
    """
    selection = list(paper.TABLE_V["proposed"])
    has_selection = set(selection) <= set(results["events"])
    events = selection if has_selection else results["events"]
    table = [["System", *events]]
    if (counts := results["data"]["development"].get("event_recordings")) is not None:  # earlier versions did not count them
        by_event = dict(zip(results["events"], counts, strict=True))
        table.append(["Development recordings", *(str(by_event[event]) for event in events)])
    for row in results["rows"]:
        if "event" in row:
            values = dict(zip(results["events"], row["event"]["class_f"], strict=True))
            table.append(
                [format_system(row["system"], row["alpha"], row["sweep"]), *(f"{values[event]:.2f}" for event in events)]
            )
    if has_selection:
        for system, values in paper.TABLE_V.items():
            if any(row["system"] == system for row in results["rows"]):
                table.append([f"Paper: {paper.TITLES[system]}", *(f"{values[event]:.2f}" for event in events)])
    return _transpose(table, "Event") if len(events) >= len(table) else table


def _transpose(table: Table, corner: str) -> Table:
    rows = [list(column) for column in zip(*table, strict=True)]
    rows[0][0] = corner
    return rows


def build_table_i(results: Mapping[str, Any]) -> Table:
    """Minutes of audio in each scene, and for which each event is active there, in both splits together; a dash for never."""
    splits = results["data"].values()
    minutes = np.sum([split["seconds"] for split in splits], axis=0) / 60  # [S]
    active = np.sum([split["active_seconds"] for split in splits], axis=0) / 60  # [S, E]
    named = [("All audio", minutes), *zip(results["events"], active.T, strict=True)]
    table = [["Event", "All scenes", *(results["scenes"] if len(minutes) > 1 else ())]]
    for name, values in named:
        columns = [values.sum(), *(values if len(minutes) > 1 else ())]
        table.append([name, *(f"{value:.2f}" if value else "-" for value in columns)])
    return table


def build_comparison_table(results: Mapping[str, Any]) -> Table:
    """Paired differences, first minus second system, in points."""
    tests = ["p (t)", "p (Holm)", "p (signed ranks)", "Effect size g"]
    table = [["First", "Second", "Score", "Pairs", "Difference", "95 % interval", "95 % over recordings", *tests]]
    for entry in results["comparisons"]:
        difference = entry["difference"]
        effect_size = "" if entry["effect_size"] is None else f"{entry['effect_size']:+.2f}"
        table.append(
            [
                format_system(entry["first"], entry["alpha"], entry["sweep"]),
                format_system(entry["second"], None),
                capitalise(SCORES[entry["task"], entry["score"]]),
                str(difference["n"]),
                f"{difference['mean']:+.2f}",
                _format_interval(difference["interval"], "+"),
                _format_interval(entry["recordings_interval"], "+"),
                *(format_p(entry[key]) for key in ("p_t", "p_holm", "p_wilcoxon")),
                effect_size,
            ]
        )
    return table


def format_p(p: float | None) -> str:
    """Formats a p value; "" for None."""
    return "" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def build_alpha_table(dependence: Mapping[str, Any]) -> Table:
    """How much each score depends on alpha, and the proposed system against the best alpha of the conventional one, in points.

    Args:
      dependence: as `alpha_dependence.summarise_alpha_dependence` returns it.
    """
    lines: dict[str, dict[tuple[str, str], str]] = {}
    for entry in dependence["spread"]:
        line = lines.setdefault(f"Spread over alpha: {format_system(entry['system'], None)}", {})
        line[entry["task"], entry["score"]] = format_mean(entry)
    for entry in dependence["spread_comparisons"]:
        line = lines.setdefault("Spread over alpha: conventional minus proposed", {})
        line[entry["task"], entry["score"]] = _format_comparison(entry)
    for entry in dependence["best_comparisons"]:
        line = lines.setdefault("Best alpha of the conventional system", {})
        line[entry["task"], entry["score"]] = f"{entry['best_alpha']:g}"
        line = lines.setdefault(f"Proposed, alpha {entry['alpha']:g}, minus conventional at its best alpha", {})
        line[entry["task"], entry["score"]] = _format_comparison(entry)
    return [
        ["", *map(capitalise, SCORES.values())],
        *([name, *(line.get(score, "") for score in SCORES)] for name, line in lines.items()),
    ]


def _format_comparison(entry: Mapping[str, Any]) -> str:
    """Formats a paired difference with its interval and p (Holm), as far as it has them."""
    difference = entry["difference"]
    interval = "" if difference["interval"] is None else " ({:+.2f} to {:+.2f})".format(*difference["interval"])
    return f"{difference['mean']:+.2f}{interval}" + ("" if entry["p_holm"] is None else f", p {format_p(entry['p_holm'])}")


def find_numbers(table: Table) -> list[bool]:
    """Finds the columns of numbers: all but the first whose filled cells below the header all begin with a number."""
    columns = zip(*table[1:], strict=True) if len(table) > 1 else ((),) * len(table[0])
    return [place > 0 and all(re.match(r"(< |[-+])?\d|-?$", cell) for cell in column) for place, column in enumerate(columns)]


def to_markdown(table: Table) -> str:
    """Formats a pipe table."""
    lines = ["| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |" for row in table]
    alignment = ["---:" if is_number else "---" for is_number in find_numbers(table)]
    return "\n".join([lines[0], "|" + "|".join(alignment) + "|", *lines[1:]]) + "\n"


def to_csv(table: Table) -> str:
    """Formats CSV with a header."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(table)
    return out.getvalue()


def to_latex(table: Table) -> str:
    """Formats a LaTeX tabular that needs no package."""
    special = {"\\": r"\textbackslash{}", "±": r"$\pm$", "<": "$<$", **{sign: f"\\{sign}" for sign in "%_&#${}"}}

    def format_row(row: Sequence[str]) -> str:
        return " & ".join("".join(special.get(sign, sign) for sign in cell) for cell in row) + r" \\"

    body = [r"\hline", format_row(table[0]), r"\hline", *map(format_row, table[1:]), r"\hline"]
    columns = "".join("r" if is_number else "l" for is_number in find_numbers(table))
    return "\n".join([rf"\begin{{tabular}}{{{columns}}}", *body, r"\end{tabular}"]) + "\n"


FORMATS = {"md": to_markdown, "csv": to_csv, "tex": to_latex}
"""Suffix of a file -> function that formats a table."""
