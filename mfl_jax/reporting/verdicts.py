"""Verdicts on several scores in sentences, with one level for all of them."""

from collections.abc import Mapping, Sequence
from typing import Any

from mfl_jax.reporting import statistics
from mfl_jax.reporting.paper import SCORES


def judge_scores(comparisons: Sequence[Mapping[str, Any]], *, positive: str, negative: str) -> str:
    """States for which scores a difference is clearly positive, for which clearly negative, and for which open.

    Each score is tested at a level that keeps the probability of any wrong verdict among the sentences at 5 %. A clear difference
    has at least `statistics.FEWEST_PAIRS` pairs and a p, corrected by Holm's method, below 5 %.

    Args:
      comparisons: one per score, with "task", "score", "difference" (fields of a `statistics.Summary`) and "p_holm".
      positive: sentence on the scores with a clearly positive difference; "{}" stands for their titles.
      negative: the same for a clearly negative difference.
    """
    titles: dict[str, list[str]] = {positive: [], negative: [], "There is too little evidence to decide on {}.": []}
    *_, undecided = titles
    for entry in comparisons:
        difference, p_holm = entry["difference"], entry["p_holm"]
        is_clear = difference["n"] >= statistics.FEWEST_PAIRS and p_holm is not None and p_holm < 1 - statistics.CONFIDENCE
        text = undecided if not is_clear else positive if difference["mean"] > 0 else negative
        titles[text].append(SCORES[entry["task"], entry["score"]])
    everything = f"all {len(SCORES)} scores"
    sentences = [
        text.format(everything if len(names) == len(SCORES) else join_names(names)) for text, names in titles.items() if names
    ]
    corrected = f", p corrected for {len(comparisons)} scores by Holm's method" if len(comparisons) > 1 else ""
    pairs = min(entry["difference"]["n"] for entry in comparisons)
    sentences.append(f"(Paired t-tests over {pairs} seed{'' if pairs == 1 else 's'}{corrected}; level 5 %.)")
    return " ".join(sentences)


def join_names(names: Sequence[str]) -> str:
    """Joins names as English does: a, b and c."""
    return " and ".join(part for part in (", ".join(names[:-1]), names[-1]) if part)
