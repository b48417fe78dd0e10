"""The report of an experiment as one HTML page that loads nothing from elsewhere."""

import base64
import html
from collections.abc import Mapping, Sequence
from typing import Any

from mfl_jax import plot_style
from mfl_jax.reporting.alpha_dependence import CLAIM_PREFIX
from mfl_jax.reporting.tables import Table, find_numbers

STYLE = """
:root { color-scheme: light dark; --ink: #222; --paper: #fff; --soft: #f1f3f5; --line: #d0d4d8; --shade: #0004; }
@media (prefers-color-scheme: dark) { :root { --ink: #ddd; --paper: #16181a; --soft: #22262a; --line: #3c4248; --shade: #fff4; } }
body { margin: 0 auto; padding: 1rem; max-width: 64rem; color: var(--ink); background: var(--paper);
       font: 16px/1.5 system-ui, sans-serif; }
h1 { line-height: 1.2; overflow-wrap: anywhere; } h2 { margin-top: 2.5rem; line-height: 1.2; }
p, li, dd, figcaption { overflow-wrap: anywhere; max-width: 46rem; }
.verdict { display: grid; grid-template-columns: 3fr 2fr; gap: 1rem 2rem; align-items: start; }
.claims { background: var(--soft); border-left: .3rem solid #0072B2; padding: .2rem 1rem; }
.conditions h2 { margin: 0; font-size: 1.1rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem .8rem; margin: .4rem 0; font-size: .9rem; }
dt { color: color-mix(in srgb, var(--ink) 70%, var(--paper)); } dd { margin: 0; }
@media (max-width: 48rem) { .verdict { grid-template-columns: minmax(0, 1fr); } }
.wide { overflow-x: auto; background: linear-gradient(to left, var(--paper) 30%, transparent) right / 3rem 100% no-repeat local,
        linear-gradient(to left, var(--shade), transparent) right / .8rem 100% no-repeat scroll; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .5rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: bottom; }
.number { text-align: right; } td.number { white-space: nowrap; }
th:first-child, td:first-child { position: sticky; left: 0; background: var(--paper); padding-left: 0; min-width: 7rem; }
@media (min-width: 48rem) { th:first-child, td:first-child { min-width: 9rem; } }
figure { margin: 1.5rem 0; } img { max-width: 100%; height: auto; } figcaption { font-size: .9rem; }
"""
HEADINGS = {
    "table4": "Scores (Table IV)",
    "intervals": "Two confidence intervals",
    "comparisons": "Paired comparisons",
    "alpha_dependence": "Dependence on alpha [points]",
    "event_figures": "Events without the fixed threshold",
    "event_figure_comparisons": "Event figures compared with the proposed system",
    "training_gap": "Training against evaluation",
    "table5": "F of events (Table V) [%]",
    "table1": "The data (Table I) [minutes]",
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
    "event_figures": "Means over runs. AP is the average precision over frames, which needs no threshold. Random scores have "
    "an AP equal to the prevalence, the share of active frames. Macro AP minus prevalence is the mean over the events that are "
    "active at all. Thresholds from the folds were chosen on development recordings only. Oracle thresholds are the best one of "
    "each event, chosen on the evaluated recordings: an upper bound, not a result. The floors detect in every frame all events "
    "that occur in training in the scene of the clip, so a system below its floor is worse than one that only recognises the "
    "scene. The Brier score is the mean squared difference of probability and label; lower is better.",
    "event_figure_comparisons": "Run by run on the same seeds, first minus second. p (Holm) is p (t) corrected for the number of "
    "comparisons by one figure at one alpha.",
    "training_gap": "Training: scores of the clips that each run was trained on, by the trained network without augmentation. "
    "Evaluation: as in the tables above. Gap: training minus evaluation, seed by seed, in points. A system with a large gap has "
    "learned the training recordings rather than the classes. Means over seeds, ± half of the 95 % confidence interval. In "
    "cross-validation, the training scores of a seed are means over its folds.",
    "table5": "Development recordings are those that have the event; in cross-validation a run trains on three quarters of them.",
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
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>",
        "<meta name='viewport' content='width=device-width, initial-scale=1'>",
        f"<title>{title}</title><style>{STYLE}</style></head><body>",
        f"<h1>Experiment {title}</h1>",
        f"<div class='verdict'>{_build_claims(results)}{_build_conditions(results)}</div>",
    ]
    for name, heading in HEADINGS.items():
        if len(tables.get(name, ())) < 2:  # no rows
            continue
        parts += [f"<h2>{heading}</h2>", build_html_table(tables[name])]
        if name in NOTES:
            parts.append(f"<p>{NOTES[name]}</p>")
        if note := {"intervals": results["recordings_note"], "event_figures": results["event_figures_note"]}.get(name):
            parts.append(f"<p>{html.escape(note)}</p>")
        if name == "comparisons" and results["comparisons"]:
            verdicts = (
                entry["verdict"] + ("" if entry["alpha"] is None else f"; alpha = {entry['alpha']:g}")
                for entry in results["comparisons"]
            )
            listed = "".join(f"<li>{html.escape(verdict)}</li>" for verdict in verdicts)
            parts.append(f"<details><summary>The comparisons in words</summary><ul>{listed}</ul></details>")
    parts += ["<h2>Figures</h2>", *figures.values(), "</body></html>\n"]
    return "\n".join(parts)


def format_claims(claims: Mapping[str, str]) -> list[str]:
    """Formats the judgements of the paper's claims; those that differ by alpha begin with it if there are several."""
    by_alpha = {key: claim for key, claim in claims.items() if not key.startswith(CLAIM_PREFIX)}
    named = [claim if len(by_alpha) == 1 else f"With alpha = {alpha}: {claim}" for alpha, claim in by_alpha.items()]
    return named + [claim for key, claim in claims.items() if key not in by_alpha]


def _build_claims(results: Mapping[str, Any]) -> str:
    """Builds the box with the judgements of the paper's claims and how the conditions differ from the paper's."""
    sentences = [*format_claims(results["claims"]), results["conditions"]["caveat"]]
    return "<div class='claims'>" + "".join(f"<p>{html.escape(text)}</p>" for text in sentences if text) + "</div>"


def _build_conditions(results: Mapping[str, Any]) -> str:
    """Builds the list of the conditions: runs, epochs, commit, dates, machine, and every field that departs from the default."""
    runs, conditions = results["runs"], results["conditions"]
    facts = {
        "Data set": f"{results['dataset']}, {results['split']}",
        "Runs": f"{runs['complete']} of {runs['planned']}",
        "Epochs": str(conditions["epochs"]),
        "Commit": ", ".join(conditions["commits"]),
        "Date": " to ".join(conditions["dates"]) or "not recorded",
        "Device": ", ".join(results["device"]),
        "Versions": ", ".join(f"{name} {version}" for name, version in results["versions"].items()),
    }
    departures = conditions["departures"]
    fields = {
        name: f"{format_value(value['here'])} (default {format_value(value['default'])})" for name, value in departures.items()
    }
    systems = {
        name: ", ".join(f"{field} {format_value(value)}" for field, value in own.items()) or "no fields of its own"
        for name, own in conditions["systems"].items()
    }
    nothing = "No field departs from configs/default.py." if not departures else ""
    return (
        f"<section class='conditions'><h2>Conditions</h2>{_build_list(facts)}"
        f"<h2>Fields that depart from configs/default.py</h2>{_build_list(fields)}{nothing and f'<p>{nothing}</p>'}"
        f"<h2>Fields of the systems</h2>{_build_list(systems)}</section>"
    )


def _build_list(facts: Mapping[str, str]) -> str:
    entries = (f"<dt>{html.escape(name)}</dt><dd>{html.escape(text)}</dd>" for name, text in facts.items())
    return f"<dl>{''.join(entries)}</dl>" if facts else ""


def format_value(value: Any) -> str:
    """Formats the value of a config field; an empty one is "none"."""
    if isinstance(value, list | tuple):
        return ", ".join(map(format_value, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value) or "none"


def build_html_table(table: Table) -> str:
    """Builds a table that scrolls if it is wider than the page; all cells are escaped."""
    classes = [" class='number'" if is_number else "" for is_number in find_numbers(table)]

    def build_row(row: Sequence[str], tag: str) -> str:
        # An interval in brackets goes below its number, which keeps the columns narrow.
        breaks = ("<br>(" if name and tag == "td" else " (" for name in classes)
        cells = (html.escape(cell).replace(" (", text) for cell, text in zip(row, breaks, strict=True))
        return "".join(f"<{tag}{name}>{cell}</{tag}>" for cell, name in zip(cells, classes, strict=True))

    body = "".join(f"<tr>{build_row(row, 'td')}</tr>" for row in table[1:])
    return f'<div class="wide"><table><thead><tr>{build_row(table[0], "th")}</tr></thead><tbody>{body}</tbody></table></div>'


def embed_figure(wide_svg: str, narrow_svg: str, caption: str) -> str:
    """Builds a figure that follows the width and the colour scheme of the reader's screen.

    Args:
      wide_svg: the figure in the ink of light pages.
      narrow_svg: the same for phones.
      caption: text below it.
    """
    sources = []
    for width, svg in (("(max-width: 48rem)", narrow_svg), ("all", wide_svg)):
        dark = svg.replace(plot_style.INK["light"].lower(), plot_style.INK["dark"].lower())
        sources += [(f"{width} and (prefers-color-scheme: dark)", _encode_svg(dark)), (width, _encode_svg(svg))]
    elements = "".join(f'<source media="{media}" srcset="{address}">' for media, address in sources[:-1])
    return (
        f'<figure><picture>{elements}<img src="{sources[-1][1]}" alt="{html.escape(caption)}"></picture>'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
    )


def _encode_svg(svg: str) -> str:
    return f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}"
