"""The files of a report, its page, and the command."""

import json
import re
import shutil
import subprocess

import matplotlib.image
import pytest

from mfl_jax import report
from mfl_jax.errors import InputError
from mfl_jax.reporting import figure_choice, summary, tables, write_report


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("table4", {"focal_weights", "learning_curves", "event_scores", "reliability", "scene_confusion"}),
        ("figure2", {"figure2", "focal_weights", "learning_curves", "event_scores", "reliability", "scene_confusion"}),
    ],
)
def test_every_figure_is_drawn(reports, name, expected):
    folder = reports[name] / "figures"
    assert {path.stem for path in folder.iterdir()} == expected
    for stem in expected:
        pixels = matplotlib.image.imread(folder / f"{stem}.png")
        assert pixels[..., :3].std() > 0.02  # there is ink
        assert "<svg" in (folder / f"{stem}.svg").read_text()


def test_runs_logged_without_loss_multipliers_show_the_mean_factors(homes):
    results, records = summary.summarise_experiment(homes["table4"]), figure_choice.read_records(homes["table4"])
    chosen = figure_choice.choose_figures(results, records)["focal_weights"]
    assert chosen.caption.startswith("Loss multiplier: ") and {ax.get_ylabel() for ax in chosen.draw().axes} == {
        "Loss multiplier"
    }
    del records["proposed", None, ()][1][0]["train"]["event"]["loss_multiplier_active"]
    chosen = figure_choice.choose_figures(results, records)["focal_weights"]
    assert chosen.caption.startswith(
        "Mean focal factor, each clip or frame counted equally. Some epochs were logged by a version "
    )
    (ax, *_) = chosen.draw().axes
    assert ax.get_ylabel() == "Mean focal factor"
    runs = [[record["train"]["event"]["focal_weight_active"] for record in run] for run in records["proposed", None, ()]]
    active = next(line for line in ax.lines if line.get_label() == "active frames")
    assert list(active.get_ydata()) == pytest.approx([sum(epoch) / len(runs) for epoch in zip(*runs, strict=True)])


@pytest.mark.ci_only
def test_report_written_twice_is_the_same(reports, tmp_path):
    copy = shutil.copytree(reports["table4"], tmp_path / "copy")
    before = {path: path.read_bytes() for path in [copy / "results.json", *copy.glob("tables/*"), *copy.glob("figures/*.svg")]}
    write_report.write_report(copy)
    for path in [copy / "results.json", *copy.glob("tables/*"), *copy.glob("figures/*.svg")]:
        assert path.read_bytes() == before[path], path.name


def test_page_loads_nothing_from_elsewhere(reports):
    page = (reports["table4"] / "report.html").read_text()
    assert not re.search(r"""(?:src|href|srcset)=["'](?!data:)""", page) and "<script" not in page and "@import" not in page


@pytest.mark.parametrize("name", ["table4", "figure2"])
def test_page_in_a_browser(reports, tmp_path, name):
    """All figures are decoded, nothing is wider than a phone, and the console stays empty."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium on this machine")
    page = (reports[name] / "report.html").read_text()
    probe = """<script>addEventListener("load", async () => {
        const images = [...document.images];
        await Promise.all(images.map(image => image.decode()));
        const probe = {images: images.length, drawn: images.filter(image => image.naturalWidth > 100).length,
            wide: document.documentElement.scrollWidth - innerWidth};
        document.title = JSON.stringify(probe);
    });</script>"""
    (tmp_path / "page.html").write_text(page.replace("</body>", probe + "</body>"))
    process = subprocess.run(
        [
            browser, "--headless", "--no-sandbox", "--disable-gpu", "--window-size=400,800", "--virtual-time-budget=20000",
            "--enable-logging=stderr", f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", str(tmp_path / "page.html"),
        ],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    title = json.loads(re.search("<title>(.*?)</title>", process.stdout).group(1))
    assert title["images"] == title["drawn"] == page.count("<figure>") >= 4
    assert title["wide"] <= 0
    assert "CONSOLE" not in process.stderr


def test_files_hold_the_results_and_tables(reports):
    home = reports["table4"]
    results = summary.summarise_experiment(home)
    assert json.loads((home / "results.json").read_text()) == json.loads(json.dumps(results))
    for name, table in write_report.build_tables(results).items():
        for suffix, format_table in tables.FORMATS.items():
            assert (home / "tables" / f"{name}.{suffix}").read_text() == format_table(table)
    assert len(list((home / "tables").iterdir())) == 8 * 3


def test_command_writes_the_report_again(homes, tmp_path, capsys):
    home = shutil.copytree(homes["folds"], tmp_path / "home")
    assert report.run([str(home)]) == 0
    page = (home / "report.html").read_text()
    assert "of the pooled scores of its folds" in page and "Training against evaluation" in page
    assert "report.html" in capsys.readouterr().out


def test_command_refuses_other_folders(tmp_path):
    with pytest.raises(InputError, match="not the work directory of an experiment"):
        report.run([str(tmp_path)])
    with pytest.raises(InputError, match="expected the work directory of one experiment"):
        report.run([])


def test_the_page_shows_verdict_caveat_and_conditions_together(reports):
    page = (reports["table4"] / "report.html").read_text()
    top = page[: page.index("<h2>Scores")]
    assert "The paper claims that" in top and "The conditions are not the paper&#x27;s: " in top
    assert "<dt>epochs</dt><dd>2 (default 300)</dd>" in top and "<dt>Commit</dt>" in top
    assert "<dt>proposed</dt><dd>eta 0.5, gamma 1, zeta 0.0625</dd>" in top
