"""The wheel holds all packages and their data, and its commands work without the checkout."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv

import numpy as np
import pytest
import soundfile

from support import ROOT

pytestmark = [pytest.mark.ci_only, pytest.mark.lightly_optimised]

CONTENTS = """
import pathlib, sys
import mfl_jax
assert pathlib.Path(mfl_jax.__file__).is_relative_to(sys.prefix), mfl_jax.__file__
from importlib import resources
assert resources.files("mfl_jax").joinpath("py.typed").is_file()
assert "<html" in resources.files("mfl_jax.inference").joinpath("page.html").read_text(encoding="utf-8")
from mfl_jax import analysis, metrics, predict
from mfl_jax.data import prepare
builders = {name: prepare.load_builder(name) for name in ("annotated_audio", "soundscapes", "tut_scenes_events")}
assert pathlib.Path(builders["tut_scenes_events"].__file__).with_name("archives.tsv").is_file()
assert len(builders["soundscapes"].Builder.EVENTS) == 14
from mfl_jax.runtime.installation import install_command
print(mfl_jax.__version__, install_command("peer"))
assert "datasets" not in sys.modules
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Builds the wheel and installs it into an environment that has the packages of this one; returns its folder of programs."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # building leaves files behind in the tree
    ignore = shutil.ignore_patterns("__pycache__")
    for name in ("mfl_jax", "configs", "datasets"):
        shutil.copytree(ROOT / name, source / name, ignore=ignore)
    for name in ("setup.cfg", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", f"--wheel-dir={folder}", str(source)], check=True)
    (wheel,) = folder.glob("*.whl")
    venv.create(folder / "venv", with_pip=False)
    python = folder / "venv" / "bin" / "python"
    # With the checkout on PYTHONPATH, pip takes the package for installed and writes no programs.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run([*pip, f"--python={python}", "install", "--no-deps", str(wheel)], check=True, env=environment)
    (site,) = (folder / "venv" / "lib").glob("python*/site-packages")
    # A path in a .pth file is searched last, and .pth files there, such as that of an editable installation, are not read.
    (site / "packages.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python.parent


def test_the_commands_of_an_installed_wheel_work_in_any_folder(installed, tmp_path):
    """Even where another package is called `datasets`, as Hugging Face's is; this one cannot be imported."""
    (tmp_path / "first" / "datasets").mkdir(parents=True)
    (tmp_path / "first" / "datasets" / "__init__.py").write_text("raise AssertionError('not the builders')\n")
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "first"), "JAX_PLATFORMS": "cpu"}

    def call(program, *arguments):
        command = [installed / program, *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    flags = ("--config.epochs=1", "--config.channels=4", "--config.hidden=4", "--config.devices=1")
    assert "event micro F" in call("mfl-jax", "train", "--config=proposed:quick", *flags)
    assert (tmp_path / "runs" / "proposed_quick" / "results.json").is_file()
    soundfile.write(tmp_path / "noise.wav", np.random.default_rng(0).uniform(-0.1, 0.1, 44_100), 44_100)
    assert "1 recordings done" in call("mfl-jax", "predict", "--checkpoint=runs/proposed_quick", "noise.wav")
    assert call("mfl-jax", "--version") == "mfl_jax 0.1.0\n"
    assert call("python", "-c", CONTENTS) == "0.1.0 pip install 'mfl_jax[peer]'\n"
