"""The tables of a report: their contents, and the three formats."""

import csv
import io

import pytest

from mfl_jax.reporting import html_page, summary, tables


def test_table_one_counts_the_data(homes):
    results = summary.summarise_experiment(homes["table4"])
    header, *rows = tables.build_table_i(results)
    assert header == ["Event", "All scenes", *results["scenes"]]
    assert [row[0] for row in rows] == ["All audio", "high", "low"]
    splits = list(results["data"].values())
    total = sum(sum(split["seconds"]) for split in splits) / 60
    assert float(rows[0][1]) == pytest.approx(total, abs=0.005)
    low_in_second_scene = sum(split["active_seconds"][1][1] for split in splits) / 60
    assert rows[2][3] == (f"{low_in_second_scene:.2f}" if low_in_second_scene else "-")


def test_events_of_table_five_are_rows_if_they_are_more_than_the_systems():
    row = {"system": "proposed", "alpha": None, "sweep": None, "event": {"class_f": [1.0, 22.5, 0.0]}}
    results = {"rows": [row], "events": ["a", "b", "c"], "data": {"development": {}}}
    assert tables.build_table_v(results) == [["Event", "Proposed (multi-focal)"], ["a", "1.00"], ["b", "22.50"], ["c", "0.00"]]
    results["data"]["development"]["event_recordings"] = [12, 3, 0]
    assert tables.build_table_v(results) == [
        ["Event", "Development recordings", "Proposed (multi-focal)"],
        ["a", "12", "1.00"], ["b", "3", "22.50"], ["c", "0", "0.00"],
    ]  # fmt: skip
    results["rows"] = [row] * 4
    assert tables.build_table_v(results)[:2] == [["System", "a", "b", "c"], ["Development recordings", "12", "3", "0"]]


def test_columns_of_text_are_aligned_left_and_numbers_right():
    table = [
        ["System", "Score", "Mean", "p", "Interval"],
        ["10 dB", "F", "1.5 ± 2", "< 0.001", "-1 to +2"],
        ["b", "G", "", "0.3", "-"],
    ]
    assert tables.find_numbers(table) == [False, False, True, True, True]
    assert tables.to_markdown(table).splitlines()[1] == "|---|---|---:|---:|---:|"
    assert r"\begin{tabular}{llrrr}" in tables.to_latex(table) and "$<$ 0.001" in tables.to_latex(table)
    page = html_page.build_html_table(table)
    assert "<td>10 dB</td><td>F</td><td class='number'>1.5 ± 2</td>" in page and "<th>Score</th><th class='number'>Mean" in page


def test_tables_in_three_formats(homes):
    results = summary.summarise_experiment(homes["table4"])
    table = tables.build_table_iv(results)
    assert table[0][2] == "Scene micro F [%]" and len({len(row) for row in table}) == 1
    assert [row[0] for row in table if row[0].startswith("Floor")] and [row for row in table if row[0].startswith("Paper")]
    assert list(csv.reader(io.StringIO(tables.to_csv(table), newline=""))) == table
    markdown = tables.to_markdown(table).splitlines()
    assert len(markdown) == len(table) + 1 and {line.count("|") for line in markdown} == {len(table[0]) + 1}
    latex = tables.to_latex(table)
    assert r"[\%]" in latex and r"$\pm$" in latex and latex.count(r"\\") == len(table)


def test_latex_escapes_special_characters():
    assert r"a\_b \& 5\% & \#1 \$ \{x\} \\" in tables.to_latex([["h", "h"], ["a_b & 5%", "#1 $ {x}"]])
