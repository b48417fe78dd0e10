"""The wheel holds all packages and their data, and works without the checkout."""

import os
import shutil
import subprocess
import sys

import pytest

from support import ROOT

pytestmark = pytest.mark.ci_only

USE = """
import pathlib, sys
import mfl_jax
assert pathlib.Path(mfl_jax.__file__).is_relative_to(sys.argv[1]), mfl_jax.__file__
from importlib import resources
assert resources.files("mfl_jax").joinpath("py.typed").is_file()
assert "<html" in resources.files("mfl_jax.inference").joinpath("page.html").read_text(encoding="utf-8")
from mfl_jax import analysis, metrics, predict
model = mfl_jax.load(sys.argv[2])
print(model.scenes, len(model.predict(sys.argv[3]).frame_scores))
"""


def test_an_installed_wheel_loads_a_run_and_predicts(tmp_path):
    source = tmp_path / "source"  # building leaves files behind in the tree
    shutil.copytree(ROOT / "mfl_jax", source / "mfl_jax", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", f"--wheel-dir={tmp_path}", str(source)], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    subprocess.run([*pip, "install", "--no-deps", f"--target={site}", str(wheel)], check=True)
    stored = ROOT / "tests" / "data" / "run_8e568e2"
    environment = os.environ | {"PYTHONPATH": str(site), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", USE, str(site), str(stored / "run"), str(stored / "evaluation_1.wav")]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["('busy',", "'calm')", "130"]
