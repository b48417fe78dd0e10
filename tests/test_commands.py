"""The commands as a user calls them: --help, --version, mistakes, and the program mfl-jax."""

import importlib
import pathlib
import runpy
import sys

import pytest
from absl import flags

from mfl_jax import __main__ as program
from mfl_jax.runtime import command_help, installation
from mfl_jax.version import __version__
from support import ROOT

MODULES = ("main", "experiment", "evaluate", "predict", "report", "export")


@pytest.fixture
def call(monkeypatch, capsys):
    """Runs a command in this process until it ends; returns its exit status, output and errors."""
    before = set(flags.FLAGS)

    def call(*arguments, run=program.main):
        monkeypatch.setattr(sys, "argv", ["mfl-jax", *arguments])
        monkeypatch.setattr(command_help, "_headings", {})  # those of the commands before
        for name in MODULES:
            monkeypatch.delitem(sys.modules, f"mfl_jax.{name}", raising=False)  # else runpy warns
        with pytest.raises(SystemExit) as end:
            run()
        for name in set(flags.FLAGS) - before:
            delattr(flags.FLAGS, name)
        flags.FLAGS.unparse_flags()
        return end.value.code, *capsys.readouterr()

    return call


def run_module(name):
    return lambda: runpy.run_module(f"mfl_jax.{name}", run_name="__main__", alter_sys=True)


@pytest.mark.parametrize("name", MODULES)
def test_help_fits_80_columns_and_names_every_flag(name, call):
    status, text, errors = call("--help", run=run_module(name))
    assert status == 0 and not errors
    assert max(map(len, text.splitlines())) <= 80
    module = importlib.import_module(f"mfl_jax.{name}")
    assert text.startswith(module.__doc__.split("\n")[0][:60]) and f"python -m mfl_jax.{name}" in text
    before = set(flags.FLAGS)
    if hasattr(module, "define_flags"):
        module.define_flags()
    own = set(flags.FLAGS) - before
    for flag in own:
        assert f"--{flag}" in text or f"--[no]{flag}" in text
        delattr(flags.FLAGS, flag)
    assert ("Several hosts:\n  --coordinator=" in text) == ("--config_help" in text) == ("config" in own)
    assert "absl" not in text and "--version" in text


def test_help_names_all_modes(call):
    _, text, _ = call("--help", run=run_module("main"))
    assert "--mode=train|evaluate|tune|prepare\n" in text and "only prepares the data" in " ".join(text.split())


def test_flags_are_grouped(call):
    headings = {
        "predict": ["Flags:", "Output:", "Help:"],
        "evaluate": ["Flags:", "Tolerances:", "Help:"],
        "main": ["Flags:", "Several hosts:", "Help:"],
    }
    for name, expected in headings.items():
        _, text, _ = call("--help", run=run_module(name))
        assert [line for line in text.splitlines() if line.endswith(":") and not line.startswith(" ")] == expected
    _, text, _ = call("--help", run=run_module("predict"))
    assert text.index("\nOutput:") < text.index("\n  --out=") < text.index("\n  --[no]page") < text.index("\nHelp:")


def test_the_citation_has_the_version():
    assert f"\nversion: {__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", MODULES)
def test_every_command_tells_the_version(name, call):
    assert call("--version", run=run_module(name)) == (0, f"mfl_jax {__version__}\n", "")


def test_config_help_lists_the_fields_of_the_config(call):
    status, text, _ = call("train", "--config=proposed", "--config.alpha=0.25", "--config_help")
    assert status == 0 and "config.alpha = 0.25" in text and "config.eta = 0.5" in text and "config.seeds" not in text
    status, text, _ = call("experiment", "--config_help")
    assert status == 0 and "config.alpha = 0.001" in text and "config.seeds = 10" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--config=proposed", "--config.eto=1"], "no config field 'eto' (did you mean eta?); --config_help lists them"),
        (["train", "--config=proposed:fast"], "only `quick` may follow the colon of a config, not 'fast'"),
        (["train", "--confg=proposed"], "no flag --confg (did you mean --config?); --help lists the flags"),
        (["train", "--config=proposed", "--alpha=1"], "no flag --alpha (did you mean --config.alpha?); --help lists the flags"),
        (["train", "--config=proposed", "--config.alpha=much"], "--config.alpha=much: could not convert string to float: 'much'"),
        (["train", "--config=proposed", "stray"], "unexpected: stray; flags start with --, as in --config=proposed"),
        (["train"], "--config=NAME is missing, e.g. --config=proposed:quick or --config=configs/proposed.py:quick"),
        (["train", "--mode=tune"], "mfl-jax train takes no --mode; the modes are commands of their own, as in mfl-jax tune"),
        (["predict", "--chekpoint=x"], "no flag --chekpoint (did you mean --checkpoint?); --help lists the flags"),
        (["predict", "--overlap=half"], "--overlap=half: could not convert string to float: 'half'"),
        (["report"], "expected the work directory of one experiment, e.g. runs/table4, not 0 arguments"),
        (["tran"], f"no command 'tran' (did you mean train?); the commands are {', '.join(program.COMMANDS)}"),
    ],
)
def test_a_mistake_is_one_line(arguments, message, call):
    assert call(*arguments) == (2, "", f"error: {message}\n")


def test_the_program_lists_its_commands(call):
    for arguments, expected in (([], 2), (["--help"], 0)):
        status, text, _ = call(*arguments)
        assert status == expected and max(map(len, text.splitlines())) <= 80
        assert [line.split()[0] for line in text.splitlines() if line.startswith("  ")] == list(program.COMMANDS)
    assert call("--version") == (0, f"mfl_jax {__version__}\n", "")


@pytest.mark.parametrize(
    ("arguments", "started"),
    [
        (["train", "--config=x"], ("main", ["--mode=train", "--config=x"])),
        (["tune", "--config=x"], ("main", ["--mode=tune", "--config=x"])),
        (["prepare", "--config=x"], ("main", ["--mode=prepare", "--config=x"])),
        (["evaluate", "--workdir=runs/x", "--config", "x"], ("main", ["--mode=evaluate", "--workdir=runs/x", "--config", "x"])),
        (["evaluate", "a.txt", "b.txt"], ("evaluate", ["a.txt", "b.txt"])),
        (["evaluate", "config", "b.txt"], ("evaluate", ["config", "b.txt"])),
        (["predict", "--plot", "a.wav"], ("predict", ["--plot", "a.wav"])),
        (["import-labels", "--x"], ("import_labels", ["--x"])),
    ],
)
def test_each_command_starts_its_module(arguments, started, monkeypatch):
    calls = []
    monkeypatch.setattr(sys, "argv", ["mfl-jax", *arguments])
    monkeypatch.setattr(program.runpy, "run_module", lambda name, **_: calls.append((name, sys.argv[1:])))
    program.main()
    assert calls == [(f"mfl_jax.{started[0]}", started[1])]


def test_windows_is_refused_in_one_line(call, monkeypatch):
    import mfl_jax

    monkeypatch.setattr(sys, "platform", "win32")
    status, _, errors = call("predict", "--checkpoint=x", "a.wav")
    assert status == 2 and errors.startswith("error: mfl_jax runs on Linux and macOS, not on Windows;")
    assert errors.count("\n") == 1
    with pytest.raises(mfl_jax.errors.InputError, match="Linux and macOS"):
        mfl_jax.load("x")


def test_the_command_that_installs_an_extra_depends_on_the_installation(tmp_path, monkeypatch):
    assert installation.install_command("peer") == "pip install -e '.[peer]'"
    monkeypatch.setattr(installation, "FOLDER", pathlib.Path(tmp_path))
    assert installation.install_command("peer") == "pip install 'mfl_jax[peer]'"
