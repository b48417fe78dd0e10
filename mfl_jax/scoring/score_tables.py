"""Prints the scores of a run, next to their floors, and the scores of events."""

from collections.abc import Mapping, Sequence
from typing import Any

import rich.console
import rich.markup
import rich.table

from mfl_jax.scoring.event_scores import PSDS

OVERALL = {
    "micro_f": "micro F, %", "macro_f": "macro F, %", "precision": "precision, %", "recall": "recall, %",
    "error_rate": "error rate", "substitution_rate": "  substitutions", "deletion_rate": "  deletions",
    "insertion_rate": "  insertions", "n_reference": "in the reference", "n_estimated": "estimated",
}  # fmt: skip
BEST = {"micro_f": "best micro F, %", "threshold": "  at threshold", "macro_f": "best macro F, %"}


def print_results(results: Mapping[str, Any], console: rich.console.Console | None = None) -> None:
    """Prints the scores of results.json next to their floors."""
    table = rich.table.Table(title=f"{results['system']} on {results['dataset']}, {results['split']} split, percent")
    for column in ("", "score", "floor", "answers of the floor"):
        table.add_column(column, justify="left" if column in ("", "answers of the floor") else "right")
    notes = []
    if "scene" in results:
        if (counted := results.get("scene_clips", results["clips"])) < results["clips"]:
            notes.append(f"scenes are scored on {counted} of {results['clips']} clips; the others are too short or not annotated")
        _add_floors(table, results, "scene", {"majority": f"always {results['floors']['scene']['majority']['answer']}"})
    if "event" in results:
        if (counted := results.get("event_clips", results["clips"])) < results["clips"]:
            notes.append(f"events are scored on {counted} of {results['clips']} clips; the others are not annotated")
        kinds = {"always_on": "every event always", "all_off": "no event ever"}
        if (oracle := results["floors"]["event"].get("oracle_scene")) is not None:
            usual = "; ".join(f"{', '.join(names)} in {scene}" for scene, names in oracle["detected"].items())
            kinds = {"oracle_scene": f"true scene known: always {usual or 'no event qualifies'}", **kinds}
        known = {
            "events_of_predicted_scene": "all events of the predicted scene",
            "events_of_true_scene": "all events of the true scene",
        }
        kinds |= {kind: answers for kind, answers in known.items() if kind in results["floors"]["event"]}
        _add_floors(table, results, "event", kinds)
        _add_probabilities(table, results.get("event_probabilities", {}))
        if results["event"]["error_rate"] is not None:
            table.add_row("event error rate", f"{results['event']['error_rate']:.3f}", "1.000", "no event ever (a ratio)")
    _add_training(table, results.get("training", {}))
    table.caption = "\n".join(notes) or None
    (console or rich.console.Console()).print(table)


def _add_floors(table: rich.table.Table, results: Mapping[str, Any], task: str, kinds: Mapping[str, str]) -> None:
    """Adds the scores of a task, with one row per floor; `kinds` maps each floor to its answers."""
    for key, name in (("micro_f", "micro F"), ("macro_f", "macro F")):
        for number, (kind, answers) in enumerate(kinds.items()):
            score = (f"{task} {name}", f"{results[task][key]:.2f}") if number == 0 else ("", "")
            table.add_row(*score, f"{results['floors'][task][kind][key]:.2f}", answers)


def _add_probabilities(table: rich.table.Table, probabilities: Mapping[str, Any]) -> None:
    """Adds macro average precision, and macro F at the best thresholds, to the table of results.json."""
    precision, best = (probabilities.get(key, {}) for key in ("average_precision", "oracle_thresholds"))
    if (mean := precision.get("mean")) is not None:
        prevalence = mean - precision["mean_above_prevalence"]
        table.add_row("event macro AP", f"{100 * mean:.2f}", f"{100 * prevalence:.2f}", "random scores (the prevalence)")
    if (of_folds := probabilities.get("fold_thresholds")) is not None:
        note = f"{of_folds['shared']['threshold']:.3f}, from the folds"
        table.add_row("event macro F, shared threshold", f"{of_folds['shared']['macro_f']:.2f}", "", note)
        table.add_row("event macro F, threshold per event", f"{of_folds['by_event']['macro_f']:.2f}", "", "from the folds")
    if best:
        table.add_row("event macro F, oracle", f"{best['macro_f']:.2f}", "", best["note"])


def _add_training(table: rich.table.Table, training: Mapping[str, Any]) -> None:
    """Adds macro F on the clips that the run was trained on; results of earlier versions have none."""
    tasks = [task for task in ("scene", "event") if task in training]
    if tasks:
        scores = " / ".join(f"{training[task]['macro_f']:.2f}" for task in tasks)
        table.add_row("macro F, training clips", scores, "", f"({' / '.join(tasks)}; not a result)")


def print_event_scores(scores: Mapping[str, Any], console: rich.console.Console | None = None) -> None:
    """Prints the result of `score_event_lists`, `score_event_files` or `score_frames`: over all classes, and by class."""
    console = console or rich.console.Console()
    kinds = [kind for kind in ("segment", "event") if kind in scores]
    areas = [name for name in PSDS if scores.get(name)]
    if kinds:
        console.print(_tabulate_overall(scores, kinds))
    for name in areas:
        console.print(f"{name.upper()}: {scores[name]['psds']:.4f}")
    labels = scores[kinds[0]]["class_f"] if kinds else scores[areas[0]]["class_psds"] if areas else ()
    if labels:
        console.print(_tabulate_classes(scores, list(labels), kinds, areas))


def _tabulate_overall(scores: Mapping[str, Any], kinds: Sequence[str]) -> rich.table.Table:
    table = rich.table.Table(title="all classes")
    table.add_column("")
    for kind in kinds:
        table.add_column(f"{kind}-based", justify="right")
    for key, name in OVERALL.items():
        table.add_row(name, *(_format_number(scores[kind][key]) for kind in kinds))
    best = [scores[kind].get("best") or {} for kind in kinds]
    if any(best):
        table.caption = "best: at thresholds chosen on these very recordings"
        for key, name in BEST.items():
            table.add_row(name, *(_format_number(values.get(key)) for values in best))
    return table


def _tabulate_classes(
    scores: Mapping[str, Any], labels: Sequence[str], kinds: Sequence[str], areas: Sequence[str]
) -> rich.table.Table:
    table = rich.table.Table(title=f"by class: F in percent, numbers of {kinds[-1] if kinds else ''}s")
    table.add_column("event", overflow="fold", min_width=12)
    for heading in [f"{kind} F" for kind in kinds] + ["ref.", "est."] * bool(kinds) + [name.upper() for name in areas]:
        table.add_column(heading, justify="right")
    for label in labels:
        cells = [scores[kind]["class_f"][label] for kind in kinds]
        cells += [scores[kind][key][label] for kind in kinds[-1:] for key in ("class_n_reference", "class_n_estimated")]
        cells += [scores[name]["class_psds"].get(label) for name in areas]
        table.add_row(rich.markup.escape(label), *map(_format_number, cells))
    return table


def _format_number(value: float | int | None) -> str:
    return "" if value is None else f"{value:.2f}" if isinstance(value, float) else str(value)
