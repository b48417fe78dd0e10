"""The dependence on alpha against values by hand."""

import pytest

from mfl_jax.reporting import alpha_dependence, html_page, summary, tables

ALPHAS = (0.001, 0.1, 1.0)


def build_rows(**systems):
    """Rows of systems whose scores are given as one list per seed, of one value per alpha; equal in all four scores."""
    rows = []
    for system, seeds in systems.items():
        for place, alpha in enumerate(ALPHAS):
            row = {"system": system, "alpha": alpha, "sweep": None, "seeds": list(range(len(seeds))), "scene": {}, "event": {}}
            for task, name in summary.SCORES:
                row[task][name] = {"values": [values[place] for values in seeds]}
            rows.append(row)
    return rows


ROWS = build_rows(
    conventional_mtl=[[50.0, 40.0, 20.0], [52.0, 41.0, 20.0], [51.0, 45.0, 20.0]],
    proposed=[[53.0, 54.0, 52.0], [55.1, 54.0, 55.0], [53.9, 54.0, 53.0]],
)


def entries_of(dependence, kind, **fields):
    return [entry for entry in dependence[kind] if all(entry[key] == value for key, value in fields.items())]


def test_spread_is_highest_minus_lowest_of_each_seed():
    dependence = alpha_dependence.summarise_alpha_dependence(ROWS, ALPHAS)
    conventional, *_ = entries_of(dependence, "spread", system="conventional_mtl", task="scene")
    proposed, *_ = entries_of(dependence, "spread", system="proposed", task="scene")
    assert conventional["values"] == [30.0, 32.0, 31.0] and proposed["values"] == pytest.approx([2.0, 1.1, 1.0])
    # Student's t for two degrees of freedom: 4.302653. Standard deviation 1.
    assert conventional["mean"] == 31.0 and conventional["interval"] == pytest.approx(
        (31 - 4.302653 / 3**0.5, 31 + 4.302653 / 3**0.5)
    )
    assert len(dependence["spread"]) == 8 and len(dependence["spread_comparisons"]) == 4
    for entry in dependence["spread_comparisons"]:
        # Conventional minus proposed: 28.0, 30.9, 30.0.
        assert entry["difference"]["mean"] == pytest.approx(88.9 / 3) and entry["difference"]["n"] == 3
        assert entry["p_holm"] == pytest.approx(4 * entry["p_t"])  # four equal scores


def test_the_best_alpha_is_chosen_by_the_mean_of_each_score():
    rows = build_rows(conventional_mtl=[[50.0, 40.0, 20.0], [0.0, 41.0, 20.0]], proposed=[[53.0, 54.0, 52.0], [54.0, 54.0, 54.0]])
    rows[2]["event"]["micro_f"]["values"] = [90.0, 91.0]  # conventional at alpha 1
    best = alpha_dependence.summarise_alpha_dependence(rows, ALPHAS)["best_comparisons"]
    assert [entry["alpha"] for entry in best] == [alpha for alpha in ALPHAS for _ in summary.SCORES]
    assert [entry["best_alpha"] for entry in best[:4]] == [0.1, 0.1, 1.0, 0.1]
    # Proposed at alpha 0.001: 53 - 40 and 54 - 41; for the event micro F 53 - 90 and 54 - 91.
    assert [entry["difference"]["mean"] for entry in best[:4]] == [13.0, 13.0, -37.0, 13.0]
    assert [entry["difference"]["mean"] for entry in best[8:]] == [12.5, 12.5, -37.5, 12.5]


def test_sentences_are_about_the_papers_alpha():
    claims = alpha_dependence.judge_alpha_claims(alpha_dependence.summarise_alpha_dependence(ROWS, ALPHAS))
    assert set(claims) == {"alpha_spread", "alpha_best_0.001"}
    assert (
        "over 3 values of alpha). In this experiment it depends less on alpha in all 4 scores. (Paired" in claims["alpha_spread"]
    )
    # 3, 3.1 and 2.9 points: p = 4 * 0.0004.
    assert "favours the conventional system. It is better in all 4 scores. (Paired" in claims["alpha_best_0.001"]
    assert "corrected for 4 scores by Holm's method" in claims["alpha_best_0.001"]


def test_a_larger_spread_and_a_worse_score_are_stated():
    swapped = [{**row, "system": {"proposed": "conventional_mtl", "conventional_mtl": "proposed"}[row["system"]]} for row in ROWS]
    for row in swapped:
        row["alpha"] *= 2  # none is the paper's
    alphas = [2 * alpha for alpha in ALPHAS]
    claims = alpha_dependence.judge_alpha_claims(alpha_dependence.summarise_alpha_dependence(swapped, alphas))
    assert set(claims) == {"alpha_spread", "alpha_best_0.002", "alpha_best_0.2", "alpha_best_2"}
    assert "it depends more on alpha in all 4 scores, which contradicts the claim." in claims["alpha_spread"]
    assert "It is worse in all 4 scores." in claims["alpha_best_2"]


def test_seeds_without_every_alpha_do_not_count():
    rows = build_rows(conventional_mtl=[[1.0, 2.0, 3.0]] * 3, proposed=[[1.0, 2.0, 3.0]] * 3)
    rows[0]["seeds"] = [0, 2, 5]
    dependence = alpha_dependence.summarise_alpha_dependence(rows, ALPHAS)
    assert [entry["n"] for entry in dependence["spread"]] == [2] * 4 + [3] * 4
    assert {entry["difference"]["n"] for entry in dependence["spread_comparisons"] + dependence["best_comparisons"]} == {2}
    assert "too little evidence to decide on all 4 scores" in alpha_dependence.judge_alpha_claims(dependence)["alpha_spread"]


@pytest.mark.parametrize("rows", [ROWS[:3], ROWS[:5], []], ids=["one system", "an alpha is missing", "no row"])
def test_nothing_is_claimed_without_both_systems_at_every_alpha(rows):
    dependence = alpha_dependence.summarise_alpha_dependence(rows, ALPHAS)
    assert dependence["spread_comparisons"] == dependence["best_comparisons"] == []
    assert "This was not tested: it needs" in alpha_dependence.judge_alpha_claims(dependence)["alpha_spread"]


def test_one_alpha_has_no_spread():
    assert (
        alpha_dependence.summarise_alpha_dependence(ROWS, ALPHAS[:1]) is None and alpha_dependence.judge_alpha_claims(None) == {}
    )


def test_the_table_has_a_line_per_comparison():
    table = tables.build_alpha_table(alpha_dependence.summarise_alpha_dependence(ROWS, ALPHAS))
    assert [line[0] for line in table] == [
        "",
        "Spread over alpha: Conventional MTL",
        "Spread over alpha: Proposed (multi-focal)",
        "Spread over alpha: conventional minus proposed",
        "Best alpha of the conventional system",
        "Proposed, alpha 0.001, minus conventional at its best alpha",
        "Proposed, alpha 0.1, minus conventional at its best alpha",
        "Proposed, alpha 1, minus conventional at its best alpha",
    ]
    assert {len(line) for line in table} == {5}
    assert table[1][1] == "31.00 ± 2.48" and table[4][1:] == ["0.001"] * 4
    assert table[5][1].startswith("+3.00 (+2.75 to +3.25), p 0.001")


def test_sentences_about_every_alpha_have_no_prefix():
    claims = {"0.1": "a.", "1": "b.", "alpha_spread": "c."}
    assert html_page.format_claims(claims) == ["With alpha = 0.1: a.", "With alpha = 1: b.", "c."]
    assert html_page.format_claims({"": "a."}) == ["a."]
