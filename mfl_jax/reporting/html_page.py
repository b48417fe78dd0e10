"""The report of an experiment as one HTML page that loads nothing from elsewhere."""

import base64
import html
from collections.abc import Mapping
from typing import Any

from mfl_jax.reporting.alpha_dependence import CLAIM_PREFIX
from mfl_jax.reporting.tables import Table

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
    "intervals": "Two confidence intervals",
    "comparisons": "Paired comparisons",
    "alpha_dependence": "Dependence on alpha, points",
    "table5": "F of events (Table V), percent",
    "table1": "The data (Table I): minutes for which each event is active",
}
"""Name of a table -> its heading, in the order of the page."""
NOTES = {
    "table4": "Means over runs with different seeds, ± half of the 95 % confidence interval. The floors are scores of answers "
    "that ignore the audio; a system below its floor is worse than those. The paper's results were measured on the TUT "
    "recordings and are comparable only with results on the same data.",
    "intervals": "The interval over seeds says how much the mean would vary with other random seeds on the same recordings; the "
    "interval over recordings (bootstrap) says how much it would vary with other recordings and the same trained networks. "
    "Recordings are drawn one by one; where those of one location or session are alike, the interval is too narrow. "
    "Verdicts and claims use the variation over seeds.",
    "comparisons": "Run by run on the same seeds, first minus second, in points. The 95 % interval is over seeds. p (Holm) is "
    "p (t) corrected for the number of scores of one pair of systems; the others are not corrected. g is Hedges' effect size.",
    "alpha_dependence": "Spread: highest minus lowest score over alpha of each seed; mean over seeds, ± half of the 95 % "
    "confidence interval. It includes the noise of single runs, so it is not 0 even where alpha does not matter. Differences are "
    "paired by seeds, with 95 % confidence interval and p corrected for the four scores of a row (Holm). The best alpha of the "
    "conventional system is chosen for each score by its mean over the same runs, which favours the conventional system.",
}
"""Name of a table -> the paragraph below it."""


def build_page(results: Mapping[str, Any], tables: Mapping[str, Table], figures: Mapping[str, str]) -> str:
    """Builds the page.

    Args:
      results: of the experiment, as `summary.summarise_experiment` returns them.
      tables: name -> table; names are keys of `HEADINGS`.
      figures: name -> HTML, as `embed_figure` returns it.
    """
    title = html.escape(results["experiment"])
    claims = format_claims(results["claims"])
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>",
        "<meta name='viewport' content='width=device-width, initial-scale=1'>",
        f"<title>{title}</title><style>{STYLE}</style></head><body>",
        f"<h1>Experiment {title}</h1><p>{html.escape(_describe_runs(results))}</p>",
        *(f"<p class='claim'>{html.escape(claim)}</p>" for claim in claims),
    ]
    for name, heading in HEADINGS.items():
        if name not in tables:
            continue
        parts += [f"<h2>{heading}</h2>", build_html_table(tables[name])]
        if name in NOTES:
            parts.append(f"<p>{NOTES[name]}</p>")
        if name == "intervals" and results["recordings_note"]:
            parts.append(f"<p>{html.escape(results['recordings_note'])}</p>")
        if name == "comparisons" and results["comparisons"]:
            verdicts = (
                entry["verdict"] + ("" if entry["alpha"] is None else f"; alpha = {entry['alpha']:g}")
                for entry in results["comparisons"]
            )
            parts.append("<ul>" + "".join(f"<li>{html.escape(verdict)}</li>" for verdict in verdicts) + "</ul>")
    parts += ["<h2>Figures</h2>", *figures.values(), "</body></html>\n"]
    return "\n".join(parts)


def format_claims(claims: Mapping[str, str]) -> list[str]:
    """Formats the judgements of the paper's claims; those that differ by alpha begin with it if there are several."""
    by_alpha = {key: claim for key, claim in claims.items() if not key.startswith(CLAIM_PREFIX)}
    named = [claim if len(by_alpha) == 1 else f"With alpha = {alpha}: {claim}" for alpha, claim in by_alpha.items()]
    return named + [claim for key, claim in claims.items() if key not in by_alpha]


def _describe_runs(results: Mapping[str, Any]) -> str:
    runs = results["runs"]
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    return (
        f"{results['dataset']}, {results['split']}; {runs['complete']} of {runs['planned']} runs; "
        f"{', '.join(results['device'])}; {versions}"
    )


def build_html_table(table: Table) -> str:
    """Builds a table that scrolls if it is wider than the page; all cells are escaped."""
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in table[0])
    body = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in table[1:])
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def embed_figure(light_svg: str, dark_svg: str, caption: str) -> str:
    """Builds a figure that follows the colour scheme of the reader's screen."""
    light, dark = (f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}" for svg in (light_svg, dark_svg))
    return (
        f'<figure><picture><source media="(prefers-color-scheme: dark)" srcset="{dark}">'
        f'<img src="{light}" alt="{html.escape(caption)}"></picture>'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
    )
