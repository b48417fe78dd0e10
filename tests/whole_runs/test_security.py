"""Files from strangers are data, never code: prepared data sets, checkpoints, names in a report."""

import ast
import json
import shutil
import subprocess
import sys

import pytest
import tensorflow_datasets as tfds

from mfl_jax.data import prepared_dataset
from mfl_jax.errors import InputError
from mfl_jax.reporting import html_page
from support import ROOT

pytestmark = pytest.mark.lightly_optimised

UNSAFE_MODULES = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}


def test_no_module_executes_data():
    files = [*(ROOT / "mfl_jax").rglob("*.py"), *(ROOT / "datasets").rglob("*.py")]
    assert len(files) > 50
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
                assert not {name.partition(".")[0] for name in names} & UNSAFE_MODULES, file
            if isinstance(node, ast.Call):
                name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
                assert not (isinstance(node.func, ast.Name) and name in ("eval", "exec")), file
                assert name not in ("unsafe_load", "full_load"), file
                values = [keyword.value for keyword in node.keywords if keyword.arg == "allow_pickle"]
                assert all(isinstance(value, ast.Constant) and value.value is False for value in values), file


def test_a_data_set_that_names_a_python_class_is_refused(trained_run, tmp_path, monkeypatch):
    _, tmp = trained_run
    shutil.copytree(tmp / "data" / "annotated_audio", tmp_path / "data" / "annotated_audio")
    (features,) = (tmp_path / "data").rglob("features.json")
    (tmp_path / "hostile.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
    monkeypatch.syspath_prepend(tmp_path)
    description = json.loads(features.read_text())
    description["featuresDict"]["features"]["scene"]["pythonClassName"] = "hostile.Feature"
    features.write_text(json.dumps(description))
    with pytest.raises(InputError, match=r"features.json names the class 'hostile.Feature'"):
        prepared_dataset.open_dataset("annotated_audio/small", tmp_path / "data")
    assert not (tmp_path / "ran").exists() and "hostile" not in sys.modules
    # TFDS alone does run the code, so this test can fail.
    with pytest.raises(ValueError, match="Unrecognized"):
        tfds.builder_from_directory(features.parent)
    assert (tmp_path / "ran").exists()


LOAD_UNDER_AUDIT = """
import sys
sys.path.insert(0, {root!r})
import numpy as np
import mfl_jax
from mfl_jax.data import prepared_dataset
model = mfl_jax.load({good!r})  # triggers all late imports
model(np.zeros((1, model.clip_frames, model.mel.mel_bins), np.float32))
opened = prepared_dataset.open_dataset("annotated_audio/small", {data!r}).read("evaluation")
events = []
forbidden = ("pickle.find_class", "os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "code.__new__")
sys.addaudithook(lambda event, arguments: events.append((event, str(arguments)[:200])) if event in forbidden else None)
import pickle
pickle.loads(pickle.dumps(np.float32))  # checks that the hook works
assert events and events[0][0] == "pickle.find_class"
events.clear()
model = mfl_jax.load({hostile!r})
model(np.zeros((1, model.clip_frames, model.mel.mel_bins), np.float32))
opened = prepared_dataset.open_dataset("annotated_audio/small", {data!r}).read("evaluation")
opened.take(np.arange(3))
print(model.scenes)
assert not events, events
"""


@pytest.mark.ci_only
def test_loading_a_checkpoint_or_a_data_set_runs_no_code(trained_run, tmp_path):
    """A Python audit hook watches while a checkpoint whose strings contain code is loaded."""
    run, tmp = trained_run
    shutil.copytree(run, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints.sums")
    code = f"__import__('os').system('touch {tmp_path / 'ran'}')"
    for about in (tmp_path / "run" / "checkpoints").glob("*/about/metadata"):
        metadata = json.loads(about.read_text())
        metadata["scenes"] = [code, "!!python/object/apply:os.system ['touch ran']"]
        metadata["config"]["note"] = metadata["config"]["name"] = code
        about.write_text(json.dumps(metadata))
    script = LOAD_UNDER_AUDIT.format(root=str(ROOT), good=str(run), hostile=str(tmp_path / "run"), data=str(tmp / "data"))
    process = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    assert "__import__" in process.stdout and not (tmp_path / "ran").exists()


def test_the_report_escapes_names():
    page = html_page.build_html_table([["system", "<script>alert(1)</script>"], ["<img src=x onerror=alert(1)>", "1 & 2"]])
    assert "<script" not in page and "<img" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page and "1 &amp; 2" in page
