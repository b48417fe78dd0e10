"""Writes the report of an experiment: results.json, tables, figures and a page."""

import io
import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import rich.box
import rich.console
import rich.table
from matplotlib.figure import Figure

from mfl_jax import plot_style
from mfl_jax.reporting import event_figures, figure_choice, html_page, summary, tables, training_gap
from mfl_jax.runtime import storage


def write_report(home: pathlib.Path, console: rich.console.Console | None = None) -> dict[str, Any]:
    """Writes results.json and report.html, and their parts in tables/ and figures/.

    Args:
      home: work directory of an experiment.
      console: where to print the scores.

    Returns:
      The contents of results.json.

    Raises:
      InputError: no run of the experiment is finished.
    """
    console = console or rich.console.Console()
    results = summary.summarise_experiment(home)
    storage.atomic_write(home / "results.json", json.dumps(results, indent=1) + "\n")
    report_tables = build_tables(results)
    (home / "tables").mkdir(exist_ok=True)
    for name, table in report_tables.items():
        for suffix, format_table in tables.FORMATS.items():
            storage.atomic_write(home / "tables" / f"{name}.{suffix}", format_table(table))
    (home / "figures").mkdir(exist_ok=True)
    figures = {
        name: write_figure(draw, home / "figures" / name, caption)
        for name, (caption, draw) in figure_choice.choose_figures(results, figure_choice.read_records(home)).items()
    }
    storage.atomic_write(home / "report.html", html_page.build_page(results, report_tables, figures))
    print_scores(results, console)
    console.print(f"written: {home / 'report.html'}, results.json, tables/, figures/", highlight=False, soft_wrap=True)
    return results


def build_tables(results: Mapping[str, Any]) -> dict[str, tables.Table]:
    """Builds the tables of the report; those of events, of training scores and of alpha only if a system has any."""
    built = {
        "table4": tables.build_table_iv(results),
        "intervals": tables.build_interval_table(results),
        "comparisons": tables.build_comparison_table(results),
        "table1": tables.build_table_i(results),
    }
    if any("event" in row for row in results["rows"]):
        built["event_figures"] = event_figures.build_figure_table(results)
        if results["event_figure_comparisons"]:
            built["event_figure_comparisons"] = event_figures.build_figure_comparison_table(results)
        built["table5"] = tables.build_table_v(results)
    if any(row["training_gap"] for row in results["rows"]):
        built["training_gap"] = training_gap.build_gap_table(results)
    if results["alpha_dependence"]:
        built["alpha_dependence"] = tables.build_alpha_table(results["alpha_dependence"])
    return built


def write_figure(draw: Callable[..., Figure], file: pathlib.Path, caption: str) -> str:
    """Writes a figure as PNG and SVG, and returns it as HTML for light and dark, wide and narrow screens.

    Args:
      draw: draws the figure with `columns` of panels.
      file: path without a suffix.
      caption: text below the figure.
    """
    with plot_style.theme():
        narrow = _to_svg(draw(columns=1))
        figure = draw(columns=2)
        wide = _to_svg(figure)
        png = io.BytesIO()
        figure.savefig(png, format="png", dpi=150, facecolor="white")
    storage.atomic_write(file.with_suffix(".svg"), wide)
    storage.atomic_write(file.with_suffix(".png"), png.getvalue())
    return html_page.embed_figure(wide, narrow, caption)


def _to_svg(figure: Figure) -> str:
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue()


def print_scores(results: Mapping[str, Any], console: rich.console.Console) -> None:
    """Prints the scores, their floors, the claim, and which scores lack an interval, in 80 columns."""
    title = f"{results['experiment']} on {results['dataset']}, {results['split']}, percent"
    table = rich.table.Table(title=title, box=rich.box.SIMPLE_HEAD, padding=0)
    table.add_column("")
    for heading in summary.SCORES.values():
        table.add_column(heading, justify="right")
    for row in results["rows"]:
        sweep = [f"{field} {value:g}" for field, value in (row["sweep"] or {}).items()]
        name = " ".join([row["system"], *([] if row["alpha"] is None else [f"{row['alpha']:g}"]), *sweep])
        table.add_row(name, *(tables.format_mean(row.get(task, {}).get(score)) for task, score in summary.SCORES))
    for task, kinds in results["floors"].items():
        for kind, floor in kinds.items():
            cells = [f"{floor[score]:.2f}" if task == score_task else "" for score_task, score in summary.SCORES]
            table.add_row(f"floor: {kind}", *cells)
    console.print(table)
    notes = (results["conditions"]["caveat"], results["recordings_note"])
    for sentence in filter(None, (*html_page.format_claims(results["claims"]), *notes)):
        console.print(sentence, highlight=False, soft_wrap=True)
