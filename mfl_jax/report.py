"""The report of an experiment: tables, pictures and a page.

python -m mfl_jax.report runs/table4
"""

import base64
import html
import io
import json
import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence

import rich.box
import rich.console
import rich.table

from mfl_jax import plot_style
from mfl_jax.errors import InputError
from mfl_jax.reporting import figures, summary, tables
from mfl_jax.runtime import storage
from mfl_jax.training import epoch_log

STYLE = """
:root { color-scheme: light dark; --ink: #222; --paper: #fff; --soft: #f1f3f5; --line: #d0d4d8; }
@media (prefers-color-scheme: dark) { :root { --ink: #ddd; --paper: #16181a; --soft: #22262a; --line: #3c4248; } }
body { margin: 0 auto; padding: 1rem; max-width: 60rem; color: var(--ink); background: var(--paper);
       font: 16px/1.5 system-ui, sans-serif; }
h1 { line-height: 1.2; } h2 { margin-top: 2.5rem; }
.claim { background: var(--soft); border-left: .3rem solid #0072B2; padding: .8rem 1rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .6rem; border-bottom: 1px solid var(--line); text-align: right; }
td { white-space: nowrap; } th:first-child, td:first-child { text-align: left; }
figure { margin: 1rem 0; } img { max-width: 100%; height: auto; } figcaption { font-size: .9rem; }
"""


HEADINGS = {
    "table4": "Scores (Table IV)",
    "comparisons": "Paired comparisons",
    "table5": "F of events (Table V), percent",
    "table1": "What the data hold (Table I): minutes in which each event is active",
}
NOTES = {
    "table4": "Means over runs with different seeds, ± half of the 95 % confidence interval. The floors need no listening; a "
    "score below its floor is worth less than a guess. The paper's figures were measured on the TUT recordings, and compare with "
    "no others.",
    "comparisons": "Run by run on the same seeds, first minus second, in points. The p values are not corrected for the number "
    "of comparisons.",
}


def _runs_of(home: pathlib.Path) -> dict[tuple[str, float], list[list[dict]]]:
    """The epoch records of every complete run, by system and alpha."""
    found: dict[tuple[str, float], list[list[dict]]] = {}
    for run in summary.finished_runs(home):
        key = (run["system"], run["config"]["alpha"])
        found.setdefault(key, []).append(epoch_log.read(home / "members" / run["member"] / "metrics.jsonl"))
    return found


def _drawings(made: Mapping, runs: Mapping) -> dict[str, tuple[str, Callable]]:
    """Name of a figure -> its caption and what draws it; those alone that the experiment has data for."""
    rows = made["rows"]
    with_scenes, with_events = ([row for row in rows if task in row] for task in ("scene", "event"))
    swept = [row for row in rows if row["alpha"] is not None]
    several = any(row["alpha"] is not None for row in rows)
    named = {
        (system if not several else f"{system}, alpha {alpha:g}"): of_both
        for system in dict.fromkeys(row["system"] for row in rows)
        for (name, alpha), of_both in sorted(runs.items())
        if name == system
    }
    focal = {
        name: of_both
        for name, of_both in named.items()
        if any(
            task in of_both[0][0]["train"] and of_both[0][-1]["train"][task][key] not in (None, 1.0)
            for task, key in figures.FOCAL_WEIGHTS
        )
    }
    scored = made["data"]["development" if made["split"].startswith("development") else "evaluation"]
    share = [sum(row[m] for row in scored["active_seconds"]) / sum(scored["seconds"]) for m in range(len(made["events"]))]
    drawings = {}
    if swept:
        drawings["figure2"] = (
            "Scores against the weight alpha of the scene loss (Fig. 2 of the paper). Bands: 95 % confidence interval.",
            lambda: figures.scores_against_alpha(swept),
        )
    if focal:
        drawings["focal_weights"] = (
            "What the focal factors multiply the plain losses by, on average over an epoch: how the balance between scenes, "
            "active and inactive frames moves as training goes on. Bands: lowest to highest run.",
            lambda: figures.focal_weights(focal),
        )
    drawings["learning_curves"] = (
        "Loss and micro F on the training clips. Bands: lowest to highest run.",
        lambda: figures.learning_curves(named),
    )
    if with_events:
        drawings["event_scores"] = (
            "F of each event, the events that are active for longest on top; rare ones at the bottom decide the macro F.",
            lambda: figures.event_scores(with_events, made["events"], share),
        )
    if with_scenes:
        drawings["scene_confusion"] = (
            "Scenes: true against answered, percent of the clips of the true scene, all seeds together.",
            lambda: figures.confusions(with_scenes, made["scenes"]),
        )
    return drawings


def _picture(draw: Callable, file: pathlib.Path, caption: str) -> str:
    """Writes a figure as PNG and SVG and returns it as HTML that holds it for light and for dark pages."""
    encoded = {}
    for theme in ("dark", "light"):
        with plot_style.theme(theme):
            figure = draw()
            out = io.StringIO()
            figure.savefig(out, format="svg", metadata={"Date": None})
            encoded[theme] = base64.b64encode(out.getvalue().encode()).decode()
            if theme == "light":
                storage.atomic_write(file.with_suffix(".svg"), out.getvalue())
                png = io.BytesIO()
                figure.savefig(png, format="png", dpi=150, facecolor="white")
                storage.atomic_write(file.with_suffix(".png"), png.getvalue())
    source = "data:image/svg+xml;base64,"
    return (
        f'<figure><picture><source media="(prefers-color-scheme: dark)" srcset="{source}{encoded["dark"]}">'
        f'<img src="{source}{encoded["light"]}" alt="{html.escape(caption)}"></picture>'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
    )


def _html_table(table: tables.Table) -> str:
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in table[0])
    body = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in table[1:])
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _page(made: Mapping, shown: Mapping[str, tables.Table], pictures: Mapping[str, str]) -> str:
    """The page as one text that needs nothing else."""
    several = len(made["claims"]) > 1
    claims = [f"With alpha = {alpha}: {claim}" if several else claim for alpha, claim in made["claims"].items()]
    verdicts = [
        entry["verdict"] + ("" if entry["alpha"] is None else f"; alpha = {entry['alpha']:g}") for entry in made["comparisons"]
    ]
    runs = made["runs"]
    about = (
        f"{made['dataset']}, {made['split']}; {runs['complete']} of {runs['planned']} runs; {', '.join(made['device'])}; "
        + ", ".join(f"{name} {version}" for name, version in made["versions"].items())
    )
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>",
        "<meta name='viewport' content='width=device-width, initial-scale=1'>",
        f"<title>{html.escape(made['experiment'])}</title><style>{STYLE}</style></head><body>",
        f"<h1>Experiment {html.escape(made['experiment'])}</h1><p>{html.escape(about)}</p>",
        *(f"<p class='claim'>{html.escape(claim)}</p>" for claim in claims),
    ]
    for name, heading in HEADINGS.items():
        if name in shown:
            parts += [f"<h2>{heading}</h2>", _html_table(shown[name])]
        if name in NOTES:
            parts.append(f"<p>{NOTES[name]}</p>")
        if name == "comparisons" and verdicts:
            parts.append("<ul>" + "".join(f"<li>{html.escape(verdict)}</li>" for verdict in verdicts) + "</ul>")
    parts += ["<h2>Pictures</h2>", *pictures.values(), "</body></html>\n"]
    return "\n".join(parts)


def write(home: pathlib.Path, console: rich.console.Console | None = None) -> dict:
    """Writes results.json, report.html and, in tables/ and figures/, their parts.

    Args:
      home: work directory of an experiment. console: to report to.

    Returns:
      What results.json holds.

    Raises:
      InputError: no run of the experiment is complete.
    """
    console = console or rich.console.Console()
    made = summary.summarise(home)
    storage.atomic_write(home / "results.json", json.dumps(made, indent=1) + "\n")
    shown = {"table4": tables.table_iv(made), "comparisons": tables.comparisons(made), "table1": tables.table_i(made)}
    if any("event" in row for row in made["rows"]):
        shown["table5"] = tables.table_v(made)
    (home / "tables").mkdir(exist_ok=True)
    for name, table in shown.items():
        for suffix, text_of in tables.WRITERS.items():
            storage.atomic_write(home / "tables" / f"{name}.{suffix}", text_of(table))
    (home / "figures").mkdir(exist_ok=True)
    pictures = {
        name: _picture(draw, home / "figures" / name, caption)
        for name, (caption, draw) in _drawings(made, _runs_of(home)).items()
    }
    storage.atomic_write(home / "report.html", _page(made, shown, pictures))
    _print(made, console)
    console.print(f"written: {home / 'report.html'}, results.json, tables/, figures/", highlight=False, soft_wrap=True)
    return made


def _print(made: Mapping, console: rich.console.Console) -> None:
    """The scores beside their floors, in 80 columns."""
    title = f"{made['experiment']} on {made['dataset']}, {made['split']}, percent"
    printed = rich.table.Table(title=title, box=rich.box.SIMPLE_HEAD, padding=0)
    printed.add_column("")
    for title in summary.SCORES.values():
        printed.add_column(title, justify="right")
    for row in made["rows"]:
        name = row["system"] if row["alpha"] is None else f"{row['system']} {row['alpha']:g}"
        printed.add_row(name, *(tables.figure(row.get(task, {}).get(score)) for task, score in summary.SCORES))
    for task, kinds in made["floors"].items():
        for kind, floor in kinds.items():
            cells = [f"{floor[score]:.2f}" if task == own else "" for own, score in summary.SCORES]
            printed.add_row(f"floor: {kind}", *cells)
    console.print(printed)
    for alpha, claim in made["claims"].items():
        console.print(f"{f'alpha {alpha}: ' if len(made['claims']) > 1 else ''}{claim}", highlight=False, soft_wrap=True)


def main(arguments: Sequence[str]) -> int:
    """The command; returns its exit status."""
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print(__doc__.strip())
        return 0 if arguments in (["--help"], ["-h"]) else 2
    try:
        home = storage.resolve_folder(arguments[0])
        if not (home / "config.json").is_file() or not (home / "data.json").is_file():
            raise InputError(f"{home}: not the work directory of an experiment")
        write(home)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
