"""The examples run unchanged."""

import os
import subprocess
import sys

import matplotlib.image
import pytest

from support import ROOT

pytestmark = pytest.mark.lightly_optimised


@pytest.mark.ci_only
def test_the_analysis_of_a_trained_model(trained_run, tmp_path):
    run, root = trained_run
    arguments = [ROOT / "examples" / "analyse.py", run, "annotated_audio/small", root / "data", tmp_path / "pictures"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=environment)
    assert process.returncode == 0, process.stderr
    assert "% of the clips correct" in process.stdout
    for name in ("embeddings", "sensitivity"):
        picture = matplotlib.image.imread(tmp_path / "pictures" / f"{name}.png")
        assert min(picture.shape[:2]) > 400 and picture[..., :3].std() > 0.05
