"""One sentence on several scores, with one level for the whole sentence."""

from collections.abc import Mapping, Sequence
from typing import Any

from mfl_jax.reporting import statistics
from mfl_jax.reporting.paper import SCORES


def judge_scores(comparisons: Sequence[Mapping[str, Any]], *, positive: str, negative: str) -> str:
    """States for which scores a difference is clearly positive, for which clearly negative, and for which open.

    Each score is tested at a level that keeps the probability of any wrong verdict in the sentence at 5 %. A clear difference has
    at least `statistics.FEWEST_PAIRS` pairs and a p, corrected by Holm's method, below 5 %.

    Args:
      comparisons: one per score, with "task", "score", "difference" (fields of a `statistics.Summary`) and "p_holm".
      positive: what to say of scores with a clearly positive difference; "{}" stands for their titles.
      negative: the same for a clearly negative difference.
    """
    titles: dict[str, list[str]] = {positive: [], negative: [], "there is too little evidence for {}": []}
    *_, undecided = titles
    for entry in comparisons:
        difference, p_holm = entry["difference"], entry["p_holm"]
        is_clear = difference["n"] >= statistics.FEWEST_PAIRS and p_holm is not None and p_holm < 1 - statistics.CONFIDENCE
        text = undecided if not is_clear else positive if difference["mean"] > 0 else negative
        titles[text].append(SCORES[entry["task"], entry["score"]])
    judgement = "; ".join(text.format(", ".join(names)) for text, names in titles.items() if names)
    level = f"5 % for the whole sentence: p corrected for {len(comparisons)} scores by Holm's method"
    return f"{judgement} (paired t-tests, {level})."
