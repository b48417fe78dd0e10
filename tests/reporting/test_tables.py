"""The tables of a report: their contents, and the three formats."""

import csv
import io

import pytest

from mfl_jax.reporting import summary, tables


def test_table_one_counts_the_data(homes):
    results = summary.summarise_experiment(homes["table4"])
    header, *rows = tables.build_table_i(results)
    assert header == ["Scene", "Minutes", "high", "low"]
    total = sum(sum(split["seconds"]) for split in results["data"].values()) / 60
    assert sum(float(row[1]) for row in rows) == pytest.approx(total, abs=0.1)


def test_tables_in_three_formats(homes):
    results = summary.summarise_experiment(homes["table4"])
    table = tables.build_table_iv(results)
    assert table[0][2] == "scene micro F [%]" and len({len(row) for row in table}) == 1
    assert [row[0] for row in table if row[0].startswith("Floor")] and [row for row in table if row[0].startswith("Paper")]
    assert list(csv.reader(io.StringIO(tables.to_csv(table), newline=""))) == table
    markdown = tables.to_markdown(table).splitlines()
    assert len(markdown) == len(table) + 1 and {line.count("|") for line in markdown} == {len(table[0]) + 1}
    latex = tables.to_latex(table)
    assert r"[\%]" in latex and r"$\pm$" in latex and latex.count(r"\\") == len(table)


def test_latex_escapes_special_characters():
    assert r"a\_b \& 5\% & \#1 \$ \{x\} \\" in tables.to_latex([["h", "h"], ["a_b & 5%", "#1 $ {x}"]])
