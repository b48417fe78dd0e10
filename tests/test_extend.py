"""The diffs of docs/extend.md: small, applied to a copy of the package, and run."""

import os
import re
import shutil
import subprocess
import sys

import pytest

from support import ROOT

DIFF = re.compile(r"^## (.+?)$|^```diff\n(.*?)^```", re.MULTILINE | re.DOTALL)
MOST_LINES, MOST_FILES = 30, 2
SMALL = ("A loss term", "An augmentation", "An output format")


def read_diffs() -> dict[str, str]:
    """Returns the diff of each section."""
    diffs, section = {}, ""
    for heading, diff in DIFF.findall((ROOT / "docs" / "extend.md").read_text(encoding="utf-8")):
        section = heading or section
        if diff:
            assert section not in diffs
            diffs[section] = diff
    return diffs


def test_every_extension_has_a_diff():
    assert list(read_diffs()) == [
        "A loss term", "An augmentation", "An optimiser", "A network", "A head", "A feature", "An output format",
    ]  # fmt: skip


@pytest.mark.parametrize("section", SMALL)
def test_common_extensions_are_small(section):
    lines = read_diffs()[section].splitlines()
    assert sum(line.startswith("+++ ") for line in lines) <= MOST_FILES
    changed = [line for line in lines if re.match(r"[+-](?!\+\+ |-- )", line)]
    assert 0 < len(changed) <= MOST_LINES


@pytest.mark.ci_only
@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_all_extensions_work_together(tmp_path):
    for folder in ("mfl_jax", "configs"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for section, diff in read_diffs().items():
        call = ["git", "apply", "-C1", "-"]
        environment = {**os.environ, "GIT_CEILING_DIRECTORIES": str(tmp_path.parent)}
        done = subprocess.run(call, input=diff, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
        assert done.returncode == 0, (section, done.stderr)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT / "tests")]), "JAX_PLATFORMS": "cpu"}
    environment["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"  # how the parts fit together, not what they compute
    call = [sys.executable, "-m", "support.extensions", str(tmp_path)]
    done = subprocess.run(call, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout == "all extensions work\n", done.stderr
