"""The reports of experiments with tiny systems: their figures against sums made here, their files, their page."""

import csv
import json
import re
import shutil
import subprocess

import matplotlib.image
import numpy as np
import pytest

from configs import default, table4
from mfl_jax import experiment, metrics, report
from mfl_jax.errors import InputError
from mfl_jax.reporting import statistics, summary, tables
from support.small import small_config, small_dataset

pytestmark = pytest.mark.lightly_optimised

SYSTEMS = ("cnn_asc", "cnn_bigru_sed", "conventional_mtl", "proposed")


def small(config, tmp, **fields):
    for key, value in small_config(tmp, eta=0.0, gamma=0.0, zeta=0.0, epochs=2).to_dict().items():
        if key != "name":
            config[key] = value
    config.seeds, config.members_at_once = 2, 4
    config.update(fields)
    return config


@pytest.fixture(scope="module")
def homes(tmp_path_factory):
    """Work directories: the four systems; two alphas; cross-validation."""
    tmp = tmp_path_factory.mktemp("report")
    small_dataset(tmp)
    made = {"table4": small(table4.get_config(), tmp)}
    made["figure2"] = small(default.experiment("figure2", []), tmp, alphas=(0.01, 1.0))
    made["figure2"].systems.update({"conventional_mtl": {}, "proposed": {"eta": 0.5}})
    made["folds"] = small(default.experiment("folds", []), tmp, folds=True, seeds=1)
    made["folds"].systems.update({"proposed": {"eta": 0.5}})
    for name, config in made.items():
        assert experiment.run(config, tmp / name)
    return {name: tmp / name for name in made}


def results(home):
    return json.loads((home / "results.json").read_text())


def run_results(home, name):
    return json.loads((home / "members" / name / "results.json").read_text())


def test_rows_are_means_over_seeds(homes):
    made = results(homes["table4"])
    assert [row["system"] for row in made["rows"]] == list(SYSTEMS)
    assert made["runs"] == {"complete": 8, "planned": 8}
    for row in made["rows"]:
        own = [run_results(homes["table4"], f"{row['system']}-seed{seed}") for seed in (0, 1)]
        for task in ("scene", "event"):
            assert (task in row) == (task in own[0])
            if task in row:
                assert row[task]["micro_f"]["mean"] == pytest.approx(np.mean([run[task]["micro_f"] for run in own]))
                assert row[task]["class_f"] == pytest.approx(np.mean([run[task]["class_f"] for run in own], axis=0))
        if "scene" in row:
            assert np.sum(row["scene"]["confusion"]) == sum(run["clips"] for run in own)


def test_the_proposed_system_is_compared_with_every_other_on_the_same_seeds(homes):
    made = results(homes["table4"])
    pairs = {(entry["second"], entry["task"], entry["score"]) for entry in made["comparisons"]}
    assert len(pairs) == 8 and {entry["first"] for entry in made["comparisons"]} == {"proposed"}
    entry = next(
        e for e in made["comparisons"] if (e["second"], e["task"], e["score"]) == ("conventional_mtl", "event", "micro_f")
    )
    values = [
        [run_results(homes["table4"], f"{system}-seed{seed}")["event"]["micro_f"] for seed in (0, 1)]
        for system in ("proposed", "conventional_mtl")
    ]
    assert entry["difference"]["mean"] == pytest.approx(statistics.paired(*values).difference.mean)
    assert "too little evidence" in made["claims"][""]  # two seeds are never enough


def compared(*differences):
    made = []
    for (task, score), values in zip(summary.SCORES, differences, strict=True):
        found = statistics.paired(values, [0.0] * len(values))
        sentence = statistics.verdict(found, first="proposed", second="conventional_mtl", score=summary.SCORES[task, score])
        made.append({"first": "proposed", "second": "conventional_mtl", "task": task, "score": score, "verdict": sentence})
    return made


def test_the_claim_is_judged_score_by_score():
    text = summary.claim(compared([2.0, 2.1, 1.9], [-2.0, -2.1, -1.9], [1.0, -1.0, 0.1], [3.0, 3.1, 3.2]))
    assert "it holds for scene micro F, event macro F" in text
    assert "does not hold for scene macro F" in text and "too little evidence for event micro F" in text
    assert "was not put to the test" in summary.claim([])


def test_a_row_for_each_alpha(homes):
    made = results(homes["figure2"])
    assert [(row["system"], row["alpha"]) for row in made["rows"]] == [
        ("conventional_mtl", 0.01), ("conventional_mtl", 1.0), ("proposed", 0.01), ("proposed", 1.0),
    ]  # fmt: skip
    assert set(made["claims"]) == {"0.01", "1"}
    for entry in made["comparisons"]:
        assert entry["difference"]["n"] == 2


def test_folds_are_pooled_as_counts(homes):
    made = results(homes["folds"])
    folds = [run_results(homes["folds"], f"proposed-fold{fold}-seed0") for fold in (1, 2, 3, 4)]
    assert made["split"] == "development, four folds pooled" and made["runs"]["planned"] == 4
    counts = {key: np.sum([fold["counts"]["event"][key] for fold in folds], axis=0) for key in folds[0]["counts"]["event"]}
    (row,) = made["rows"]
    assert row["event"]["micro_f"]["mean"] == pytest.approx(metrics.frame_ratios(counts)["micro_f"])
    confusion = np.sum([fold["scene"]["confusion"] for fold in folds], axis=0)
    assert row["scene"]["confusion"] == confusion.tolist()
    # Every development clip is scored once, by the fold that did not train on it.
    assert confusion.sum() == sum(made["data"]["development"]["clips"])


def test_table_one_counts_the_data(homes):
    made = results(homes["table4"])
    header, *rows = tables.table_i(made)
    assert header == ["Scene", "Minutes", "high", "low"]
    total = sum(sum(split["seconds"]) for split in made["data"].values()) / 60
    assert sum(float(row[1]) for row in rows) == pytest.approx(total, abs=0.1)


def test_tables_in_three_formats(homes):
    made = results(homes["table4"])
    table = tables.table_iv(made)
    assert table[0][2] == "scene micro F [%]" and len({len(row) for row in table}) == 1
    assert [row[0] for row in table if row[0].startswith("Floor")] and [row for row in table if row[0].startswith("Paper")]
    with open(homes["table4"] / "tables" / "table4.csv", newline="") as file:
        assert list(csv.reader(file)) == table
    markdown = (homes["table4"] / "tables" / "table4.md").read_text().splitlines()
    assert len(markdown) == len(table) + 1 and {line.count("|") for line in markdown} == {len(table[0]) + 1}
    latex = (homes["table4"] / "tables" / "table4.tex").read_text()
    assert r"[\%]" in latex and r"$\pm$" in latex and latex.count(r"\\") == len(table)


def test_latex_escapes_what_is_special():
    assert r"a\_b \& 5\% & \#1 \$ \{x\} \\" in tables.latex([["h", "h"], ["a_b & 5%", "#1 $ {x}"]])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("table4", {"focal_weights", "learning_curves", "event_scores", "scene_confusion"}),
        ("figure2", {"figure2", "focal_weights", "learning_curves", "event_scores", "scene_confusion"}),
    ],
)
def test_every_figure_is_drawn(homes, name, expected):
    folder = homes[name] / "figures"
    assert {path.stem for path in folder.iterdir()} == expected
    for stem in expected:
        pixels = matplotlib.image.imread(folder / f"{stem}.png")
        assert pixels[..., :3].std() > 0.02  # there is ink
        assert "<svg" in (folder / f"{stem}.svg").read_text()


def test_a_report_made_twice_is_the_same(homes, tmp_path):
    copy = shutil.copytree(homes["table4"], tmp_path / "copy")
    before = {
        path.name: path.read_bytes() for path in [copy / "results.json", *copy.glob("tables/*"), *copy.glob("figures/*.svg")]
    }
    report.write(copy)
    for path in [copy / "results.json", *copy.glob("tables/*"), *copy.glob("figures/*.svg")]:
        assert path.read_bytes() == before[path.name], path.name


def test_the_page_needs_nothing_else(homes):
    page = (homes["table4"] / "report.html").read_text()
    assert not re.search(r"""(?:src|href|srcset)=["'](?!data:)""", page) and "<script" not in page and "@import" not in page


@pytest.mark.parametrize("name", ["table4", "figure2"])
def test_the_page_in_a_browser(homes, tmp_path, name):
    """All pictures are decoded, nothing is wider than a phone, and the console stays empty."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium on this machine")
    page = (homes[name] / "report.html").read_text()
    probe = """<script>addEventListener("load", async () => {
        const images = [...document.images];
        await Promise.all(images.map(image => image.decode()));
        const probe = {images: images.length, drawn: images.filter(image => image.naturalWidth > 100).length,
            wide: document.documentElement.scrollWidth - innerWidth};
        document.title = JSON.stringify(probe);
    });</script>"""
    (tmp_path / "page.html").write_text(page.replace("</body>", probe + "</body>"))
    found = subprocess.run(
        [
            browser, "--headless", "--no-sandbox", "--disable-gpu", "--window-size=400,800", "--virtual-time-budget=20000",
            "--enable-logging=stderr", f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", str(tmp_path / "page.html"),
        ],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    title = json.loads(re.search("<title>(.*?)</title>", found.stdout).group(1))
    assert title["images"] == title["drawn"] == page.count("<figure>") >= 4
    assert title["wide"] <= 0
    assert "CONSOLE" not in found.stderr


def test_the_command_refuses_other_folders(tmp_path, capsys):
    assert report.main([str(tmp_path)]) == 2
    assert "not the work directory of an experiment" in capsys.readouterr().err


def test_an_experiment_without_complete_runs_has_no_report(homes, tmp_path):
    for name in ("config.json", "data.json"):
        shutil.copy(homes["table4"] / name, tmp_path / name)
    with pytest.raises(InputError, match="no complete run"):
        report.write(tmp_path)
