"""The package's type annotations, checked by mypy with the settings of pyproject.toml."""

import subprocess
import sys

import pytest

from support import ROOT


@pytest.mark.ci_only
def test_mypy_finds_no_errors(tmp_path):
    process = subprocess.run([sys.executable, "-m", "mypy", f"--cache-dir={tmp_path}"], cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 0, process.stdout
