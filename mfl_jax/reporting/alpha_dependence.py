"""How much the scores of an experiment depend on alpha, and whether the proposed system needs no search for it."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from mfl_jax.reporting import paper, statistics, verdicts
from mfl_jax.reporting.paper import CONVENTIONAL, PROPOSED, SCORES

CLAIM_PREFIX = "alpha_"
"""Prefix of the keys of `judge_alpha_claims`. The other claims have an alpha as their key."""

Score = tuple[str, str]
"""Task and score, a key of `SCORES`."""
Values = dict[int, dict[Score, float]]
"""Seed -> score -> value."""
Curves = dict[int, dict[Score, list[float]]]
"""Seed -> score -> value at each alpha."""


def summarise_alpha_dependence(rows: Sequence[Mapping[str, Any]], alphas: Sequence[float]) -> dict[str, Any] | None:
    """Summarises what alpha changes, from the seeds that have finished every alpha.

    Args:
      rows: of the experiment, as `summary.build_row` returns them.
      alphas: the values of alpha of the experiment.

    Returns:
      None for fewer than two alphas, otherwise:
      {"alphas",
      "spread": statistics and values of the highest minus the lowest score over alpha of each seed, per system and score,
      "spread_comparisons": conventional minus proposed spread, per score,
      "best_comparisons": the proposed system at each alpha minus the conventional one at its best alpha, which is that with the
      highest mean, chosen for each score}. The comparisons are paired by seeds, and empty if the systems have no common seeds.
    """
    if len(alphas) < 2:
        return None
    curves = {system: _collect_curves(rows, system, alphas) for system in dict.fromkeys(row["system"] for row in rows)}
    spreads = {system: _compute_spreads(seeds) for system, seeds in curves.items() if seeds}
    spread = [
        {"system": system, "task": task, "score": name, **_summarise([values[task, name] for values in seeds.values()])}
        for system, seeds in spreads.items()
        for task, name in SCORES
    ]
    pairs, best = [], []
    if CONVENTIONAL in spreads and PROPOSED in spreads and spreads[CONVENTIONAL].keys() & spreads[PROPOSED].keys():
        pairs = _compare(spreads[CONVENTIONAL], spreads[PROPOSED], {"first": CONVENTIONAL, "second": PROPOSED})
        best = _compare_with_best(curves[CONVENTIONAL], curves[PROPOSED], alphas)
    return {"alphas": list(alphas), "spread": spread, "spread_comparisons": pairs, "best_comparisons": best}


def _collect_curves(rows: Sequence[Mapping[str, Any]], system: str, alphas: Sequence[float]) -> Curves:
    """Collects the scores of a system's seeds that have finished every alpha; none for a system that has no alpha."""
    by_alpha = {row["alpha"]: row for row in rows if row["system"] == system}
    if not set(alphas) <= set(by_alpha):
        return {}

    def read(alpha: float, seed: int, score: Score) -> float:
        row = by_alpha[alpha]
        return row[score[0]][score[1]]["values"][row["seeds"].index(seed)]

    seeds = set.intersection(*(set(by_alpha[alpha]["seeds"]) for alpha in alphas))
    return {seed: {score: [read(alpha, seed, score) for alpha in alphas] for score in SCORES} for seed in sorted(seeds)}


def _compute_spreads(curves: Curves) -> Values:
    return {seed: {score: max(values) - min(values) for score, values in scores.items()} for seed, scores in curves.items()}


def _summarise(values: list[float]) -> dict[str, Any]:
    return {**dataclasses.asdict(statistics.summarise_repeats(values)), "values": values}


def _compare(first: Values, second: Values, labels: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Compares values of common seeds: one entry per score with the labels, p corrected for the number of scores."""
    seeds = sorted(first.keys() & second.keys())
    comparisons = [
        statistics.compare_pairs([first[seed][score] for seed in seeds], [second[seed][score] for seed in seeds])
        for score in SCORES
    ]
    corrected = statistics.correct_holm([comparison.p_t for comparison in comparisons])
    return [
        {**labels, "task": task, "score": name, **dataclasses.asdict(comparison), "p_holm": p_holm}
        for (task, name), comparison, p_holm in zip(SCORES, comparisons, corrected, strict=True)
    ]


def _compare_with_best(conventional: Curves, proposed: Curves, alphas: Sequence[float]) -> list[dict[str, Any]]:
    """Compares the proposed system at each alpha with the conventional one at the best alpha of each score."""

    def sum_at(place: int, score: Score) -> float:
        return sum(scores[score][place] for scores in conventional.values())

    best = {score: max(range(len(alphas)), key=lambda place: sum_at(place, score)) for score in SCORES}
    at_best = {seed: {score: scores[score][best[score]] for score in SCORES} for seed, scores in conventional.items()}
    entries = []
    for place, alpha in enumerate(alphas):
        at_alpha = {seed: {score: scores[score][place] for score in SCORES} for seed, scores in proposed.items()}
        entries += _compare(at_alpha, at_best, {"first": PROPOSED, "second": CONVENTIONAL, "alpha": alpha})
    return [{**entry, "best_alpha": alphas[best[entry["task"], entry["score"]]]} for entry in entries]


def judge_alpha_claims(dependence: Mapping[str, Any] | None) -> dict[str, str]:
    """Judges the paper's claim that the proposed system needs no search for alpha, in sentences by key.

    Args:
      dependence: as `summarise_alpha_dependence` returns it.

    Returns:
      `alpha_spread`: whether the proposed system depends less on alpha. `alpha_best_A`: the proposed system at alpha A against
      the conventional one at its best alpha; A is the paper's alpha, or each alpha of an experiment without that.
    """
    if dependence is None:
        return {}
    claim = "The paper claims that the proposed system works regardless of alpha"
    if not dependence["spread_comparisons"]:
        needs = "proposed and conventional_mtl, with at least one seed that has finished every alpha"
        return {"alpha_spread": f"{claim}. This was not tested: it needs {needs}."}
    judgement = verdicts.judge_scores(
        dependence["spread_comparisons"],
        positive="In this experiment it depends less on alpha in {}.",
        negative="In this experiment it depends more on alpha in {}, which contradicts the claim.",
    )
    spread = f"highest minus lowest score over {len(dependence['alphas'])} values of alpha"
    claims = {"alpha_spread": f"{claim}. The test compares the spreads of the two systems for each seed ({spread}). {judgement}"}
    for alpha in [paper.ALPHA] if paper.ALPHA in dependence["alphas"] else dependence["alphas"]:
        judgement = verdicts.judge_scores(
            [entry for entry in dependence["best_comparisons"] if entry["alpha"] == alpha],
            positive="It is better in {}.",
            negative="It is worse in {}.",
        )
        claims[f"{CLAIM_PREFIX}best_{alpha:g}"] = (
            f"The proposed system with alpha = {alpha:g} is compared with the conventional one at its best alpha. That alpha is "
            f"chosen for each score on the same runs, which favours the conventional system. {judgement}"
        )
    return claims
