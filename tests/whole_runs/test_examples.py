"""The examples run as they stand."""

import os
import subprocess
import sys

import matplotlib.image
import pytest

from support import ROOT

pytestmark = pytest.mark.lightly_optimised


def test_the_walk_through_a_trained_model(trained_run, tmp_path):
    run, root = trained_run
    arguments = [ROOT / "examples" / "analyse.py", run, "annotated_audio/small", root / "data", tmp_path / "pictures"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert "% of the clips right" in done.stdout
    for name in ("embeddings", "sensitivity"):
        picture = matplotlib.image.imread(tmp_path / "pictures" / f"{name}.png")
        assert min(picture.shape[:2]) > 400 and picture[..., :3].std() > 0.05
