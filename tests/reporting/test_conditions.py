"""The conditions that a report shows beside its verdict."""

import json

import pytest

from configs import table4
from mfl_jax.reporting import conditions, html_page
from mfl_jax.runtime import workdir_config

RUNS = [
    {"code": {"commit": "0123456789abcdef", "changed": False}},
    {"code": {"commit": "0123456789abcdef", "changed": True}},
    {"code": None},
]


def describe(home, **fields):
    config = table4.get_config()
    config.update(fields)
    return conditions.describe_conditions(home, workdir_config.to_plain_dict(config), RUNS)


def test_the_papers_conditions_have_no_caveat(tmp_path):
    described = describe(tmp_path, data_dir="elsewhere", devices=2)
    assert described["caveat"] == ""
    assert described["departures"] == {
        "data_dir": {"here": "elsewhere", "default": "data"}, "devices": {"here": 2, "default": 0},
    }  # fmt: skip
    assert described["systems"]["proposed"] == {"eta": 0.5, "gamma": 1.0, "zeta": 0.0625} and described["epochs"] == 300


def test_fields_that_change_the_scores_are_named(tmp_path):
    described = describe(tmp_path, epochs=20, dataset="soundscapes/quick", seeds=3, audio={"mel_bins": 40, "clip_s": 5.0})
    assert set(described["departures"]) == {"audio.clip_s", "audio.mel_bins", "dataset", "epochs", "seeds"}
    assert described["caveat"].startswith("The conditions are not the paper's: audio, dataset, epochs and seeds differ. ")
    assert "the paper's: seeds differs" in describe(tmp_path, seeds=3)["caveat"]


def test_commits_and_dates_of_the_runs(tmp_path):
    assert describe(tmp_path)["dates"] == []
    starts = [{"command": []}, {"started": "2026-11-28T09:00:00+00:00"}, {"started": "2026-11-27T23:59:59+00:00"}]
    (tmp_path / "history.jsonl").write_text("".join(json.dumps(start) + "\n" for start in starts))
    described = describe(tmp_path)
    assert described["commits"] == ["0123456789ab", "0123456789ab+", "unknown"]
    assert described["dates"] == ["2026-11-27", "2026-11-28"]


@pytest.mark.parametrize("value, text", [((), "none"), ("", "none"), (0.0002, "0.0002"), (True, "True"), (["a", 1], "a, 1")])
def test_values_are_readable(value, text):
    assert html_page.format_value(value) == text
