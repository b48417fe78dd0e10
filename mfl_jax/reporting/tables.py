"""The tables of an experiment as Markdown, CSV and LaTeX."""

import csv
import io
from collections.abc import Mapping, Sequence

from mfl_jax.reporting import paper
from mfl_jax.reporting.summary import SCORES

Table = list[list[str]]
"""Rows of texts, the first of them the header."""


def column_title(row: Mapping) -> str:
    """What a table calls a row: its system, and alpha where there are several."""
    name = paper.TITLES.get(row["system"], row["system"].replace("_", " "))
    return name if row["alpha"] is None else f"{name}, alpha {row['alpha']:g}"


def figure(value: Mapping | None) -> str:
    """A mean with the half width of its 95 % confidence interval, or alone where one run has none."""
    if value is None:
        return ""
    if value["interval"] is None:
        return f"{value['mean']:.2f}"
    return f"{value['mean']:.2f} ± {(value['interval'][1] - value['interval'][0]) / 2:.2f}"


def table_iv(summary: Mapping) -> Table:
    """The four scores of each system with their confidence, error rate, the floors, and the paper's figures."""
    table = [["System", "Runs", *(f"{title} [%]" for title in SCORES.values()), "Event error rate"]]
    for row in summary["rows"]:
        cells = [figure(row.get(task, {}).get(name)) for task, name in SCORES]
        table.append([column_title(row), str(len(row["seeds"])), *cells, figure(row.get("event", {}).get("error_rate"))])
    scene, event = summary["floors"]["scene"]["majority"], summary["floors"]["event"]
    floors = {
        "Floor: most frequent scene": [scene["micro_f"], scene["macro_f"], None, None, None],
        "Floor: true scene known": [None, None, *_scores(event["oracle_scene"])],
        "Floor: every event always": [None, None, *_scores(event["always_on"])],
        "Floor: no event ever": [None, None, *_scores(event["all_off"])],
    }
    for name, values in floors.items():
        table.append([name, "", *("" if value is None else f"{value:.2f}" for value in values)])
    for system, scores in paper.TABLE_IV.items():
        if any(row["system"] == system for row in summary["rows"]):
            cells = [scores.get(task, {}).get(name) for task, name in SCORES]
            table.append(
                [f"Paper: {paper.TITLES[system]}", "10", *("" if value is None else f"{value:.2f}" for value in cells), ""]
            )
    return table


def _scores(floor):
    return [floor["micro_f"], floor["macro_f"], floor["error_rate"]]


def table_v(summary: Mapping) -> Table:
    """The mean F of events, percent: those that the paper selects where the data have them all, else every one."""
    selected = list(paper.TABLE_V["proposed"])
    of_the_paper = set(selected) <= set(summary["events"])
    events = selected if of_the_paper else summary["events"]
    table = [["System", *events]]
    for row in summary["rows"]:
        if "event" in row:
            values = dict(zip(summary["events"], row["event"]["class_f"], strict=True))
            table.append([column_title(row), *(f"{values[event]:.2f}" for event in events)])
    if of_the_paper:
        for system, values in paper.TABLE_V.items():
            if any(row["system"] == system for row in summary["rows"]):
                table.append([f"Paper: {paper.TITLES[system]}", *(f"{values[event]:.2f}" for event in events)])
    return table


def table_i(summary: Mapping) -> Table:
    """Minutes for which each event is active in each scene, both splits together; a dash where it never is."""
    table = [["Scene", "Minutes", *summary["events"]]]
    splits = summary["data"].values()
    for number, scene in enumerate(summary["scenes"]):
        minutes = sum(split["seconds"][number] for split in splits) / 60
        active = [sum(split["active_seconds"][number][m] for split in splits) / 60 for m in range(len(summary["events"]))]
        table.append([scene, f"{minutes:.1f}", *(f"{value:.2f}" if value else "-" for value in active)])
    return table


def comparisons(summary: Mapping) -> Table:
    """Paired differences, first minus second system, in points."""
    table = [["First", "Second", "Score", "Pairs", "Difference", "95 % interval", "p (t)", "p (signed ranks)", "Effect size d"]]
    for entry in summary["comparisons"]:
        difference = entry["difference"]
        interval = difference["interval"]
        first = column_title({"system": entry["first"], "alpha": entry["alpha"]})
        table.append(
            [
                first,
                column_title({"system": entry["second"], "alpha": None}),
                SCORES[entry["task"], entry["score"]],
                str(difference["n"]),
                f"{difference['mean']:+.2f}",
                "" if interval is None else f"{interval[0]:+.2f} to {interval[1]:+.2f}",
                *("" if value is None else f"{value:.2g}" for value in (entry["p_t"], entry["p_wilcoxon"], entry["effect_size"])),
            ]
        )
    return table


def markdown(table: Table) -> str:
    """A pipe table."""
    lines = ["| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |" for row in table]
    numbers = ["---", *["---:"] * (len(table[0]) - 1)]
    return "\n".join([lines[0], "|" + "|".join(numbers) + "|", *lines[1:]]) + "\n"


def comma_separated(table: Table) -> str:
    """CSV with a header."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(table)
    return out.getvalue()


def latex(table: Table) -> str:
    """A tabular that needs no package."""
    special = {"\\": r"\textbackslash{}", "±": r"$\pm$", **{sign: f"\\{sign}" for sign in "%_&#${}"}}

    def cells(row: Sequence[str]) -> str:
        return " & ".join("".join(special.get(sign, sign) for sign in cell) for cell in row) + r" \\"

    body = [r"\hline", cells(table[0]), r"\hline", *map(cells, table[1:]), r"\hline"]
    columns = "l" + "r" * (len(table[0]) - 1)
    return "\n".join([rf"\begin{{tabular}}{{{columns}}}", *body, r"\end{tabular}"]) + "\n"


WRITERS = {"md": markdown, "csv": comma_separated, "tex": latex}
"""Suffix of a file -> what writes it."""
