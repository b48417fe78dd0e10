"""The flag --config: names and files of configs, and one line per mistake."""

import re
import sys

import pytest

from mfl_jax.errors import InputError
from mfl_jax.runtime import config_file
from support import ROOT


@pytest.mark.parametrize("text", ["proposed:quick", f"{ROOT}/configs/proposed.py:quick"])
def test_a_config_is_named_or_given_as_a_file(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = config_file.load_config(text)
    assert (config.name, config.eta, config.channels) == ("proposed_quick", 0.5, 32)
    assert config_file.load_config(text.removesuffix(":quick")).channels == 128


def test_a_file_comes_before_a_name(tmp_path, monkeypatch):
    """A file without the suffix .py, too."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "proposed").write_text(
        "from mfl_jax.configs import default\n\ndef get_config():\n    config = default.get_config()\n"
        "    config.name = 'mine'\n    return config\n"
    )
    assert config_file.load_config("proposed").name == "mine"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("propsed", r"no config 'propsed' \(did you mean proposed\?\); known: ablations, .*, table4; or name a file"),
        ("xyz:quick", "no config 'xyz'; known: .*"),
        ("configs/proposed.py", "configs/proposed.py: no such config file; --config=proposed works in every folder"),
        ("elsewhere/mine.py", "elsewhere/mine.py: no such config file"),
        ("proposed:fast", "only `quick` may follow the colon of a config, not 'fast'"),
        ("plain.py:quick", "plain.py has no variants; leave out ':quick'"),
        ("plain.py", r"plain.py: get_config\(\) must return an ml_collections.ConfigDict"),
        ("empty.py", r"empty.py: no config file, it defines no get_config\(\)"),
        ("wrong.py", "wrong.py, line 2: ZeroDivisionError: division by zero"),
        ("syntax.py", "syntax.py, line 1: SyntaxError: .*"),
        ("old.py", "old.py, line 1: ModuleNotFoundError: No module named 'configs'; write `from mfl_jax.configs import ...`"),
    ],
)
def test_a_wrong_config_is_one_line(text, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [path for path in sys.path if path not in ("", ".", str(ROOT))])
    monkeypatch.delitem(sys.modules, "configs", raising=False)
    for name, content in {
        "plain": "def get_config():\n    return {}\n",
        "empty": "x = 1\n",
        "wrong": "def get_config():\n    return 1 / 0\n",
        "syntax": "def get_config(:\n",
        "old": "from configs import default\n",
    }.items():
        (tmp_path / f"{name}.py").write_text(content)
    with pytest.raises(InputError) as refusal:
        config_file.load_config(text)
    assert re.fullmatch(message, str(refusal.value)), refusal.value


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--config.alfa=1", r"no config field 'alfa' \(did you mean alpha\?\); --config_help lists them"),
        ("-config.alfa", "no config field 'alfa'"),
        ("--noconfig.mask_paddin", r"'mask_paddin' \(did you mean mask_padding\?\)"),
        ("--config.sample_rate=8000", r"'sample_rate' \(did you mean audio\.sample_rate_hz\?\)"),
        ("--config.audio.clips=1", r"'audio.clips' \(did you mean audio\.clip_s\?\)"),
        ("--config.qqq=1", "'qqq'; --config_help"),
    ],
)
def test_a_misspelt_field_suggests_the_nearest(argument, message):
    config = config_file.load_config("default")
    with pytest.raises(InputError, match=message):
        config_file.check_overrides(config, ["program", "--config=default", argument])


def test_existing_fields_pass():
    config = config_file.load_config("table4")
    config_file.check_overrides(
        config, ["--config.alpha=1", "--config.audio.clip_s", "--config.sweep.eta=(0,)", "--workdir=config.x", "--config.seeds=2"]
    )
