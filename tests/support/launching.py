"""A sandbox for the launch scripts: a checkout, and stubs for clouds, clusters and the training program."""

import functools
import json
import pathlib
import shutil
import subprocess
import sys
import time

from support import ROOT, TESTS

STUBS = TESTS / "whole_runs" / "launch"
ODD_FLAGS = ['--config.note=it\'s a "b c" $HOME `d` *;\\', "--config.name="]
"""Flags that break unless every layer quotes them."""

STUB_PYTHON = f"{sys.executable} -IS"
"""Stubs need only the standard library; without site packages they start three times as fast."""

# Python on a worker or node: creates copies of itself as environments, records what pip should do, and runs the stub of mfl_jax.
WORKER_PYTHON = f"""#!/bin/sh
case "${{0##*/}}" in python3.1?) [ -z "$STUB_OLD_IMAGE" ] || exit 1 ;; esac
case "$1 $2" in
  "-m venv") mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
  "-m pip") echo "$*" >>"$HOME/pip"; exit "${{STUB_PIP:-0}}" ;;
  "-m uv") case "$4" in install) cp "$0" "$HOME/uv_python" ;; find) echo "$HOME/uv_python" ;; esac ;;
  "-c import jax;"*) echo "$STUB_GPUS" ;;
  "-m mfl_jax."*)
    [ -z "$STUB_REAL" ] || exec {sys.executable} "$@"
    shift
    exec {STUB_PYTHON} {STUBS}/stub_mfl_jax.py "$@" ;;
  *) exec {STUB_PYTHON} "$@" ;;
esac
"""


def write_program(path: pathlib.Path, text: str) -> None:
    """Writes an executable file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def write_checkout(root: pathlib.Path, names) -> None:
    """Copies parts of this checkout into a new git checkout; adds a tracked file that was deleted, and an untracked file."""
    root.mkdir()
    for name in names:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, root / name)
    (root / "deleted").touch()
    git = functools.partial(subprocess.run, cwd=root, check=True)
    git(["git", "init", "--quiet", "--template="])
    git(["git", "add", "--all"])
    (root / "deleted").unlink()
    (root / "untracked").touch()


def wait_for(file: pathlib.Path, text: str) -> None:
    """Waits until a file has this content."""
    deadline = time.monotonic() + 60
    while not (file.exists() and file.read_text() == text):
        assert time.monotonic() < deadline, f"{file} never contained {text!r}"
        time.sleep(0.02)


class Sandbox:
    """A checkout, programs that stand in for a cloud or a cluster, and the records that they keep.

    Attributes:
      root: the checkout; its path contains a space.
      bin: programs of the machine that runs the scripts; a test may add more.
      worker_bin: programs of a worker.
      environment: environment variables of the scripts.
    """

    def __init__(self, tmp_path: pathlib.Path, files=("launch", "setup.cfg", "pyproject.toml")):
        self.tmp, self.root = tmp_path, tmp_path / "a checkout"
        self.bin, self.worker_bin = tmp_path / "bin", tmp_path / "worker_bin"
        self.cloud, self.slurm, self.home = tmp_path / "cloud", tmp_path / "slurm", tmp_path / "home"
        write_checkout(self.root, files)
        for name in ("sbatch", "srun", "scontrol"):
            write_program(self.bin / name, f'#!/bin/sh\nexec {STUB_PYTHON} {STUBS}/stub_slurm.py {name} "$@"\n')
        write_program(self.bin / "gcloud", f'#!/bin/sh\nexec {STUB_PYTHON} {STUBS}/stub_gcloud.py "$@"\n')
        for name in ("python3", "python3.11", "python3.12", "python3.13"):
            write_program(self.worker_bin / name, WORKER_PYTHON)
        write_program(self.worker_bin / "hostname", '#!/bin/sh\necho "t1v-n-0a1b2c3d-w-$STUB_WORKER"\n')
        for folder in (self.cloud, self.slurm, self.home):
            folder.mkdir()
        self.environment = {
            "PATH": f"{self.bin}:/usr/local/bin:/usr/bin:/bin",
            "HOME": str(self.home),
            "PYTHON": str(self.worker_bin / "python3"),
            "STUB_CLOUD": str(self.cloud),
            "STUB_SLURM": str(self.slurm),
            "STUB_JOB": str(time.monotonic_ns() % 10**7),
            "STUB_WORKER_BIN": str(self.worker_bin),
            "STUB_STARTS": str(tmp_path / "starts"),
            "MFL_JAX_POLL_S": "0.02",
            "TMPDIR": str(tmp_path),
        }

    def start(self, script: str, *words: str, **environment: str) -> subprocess.Popen:
        """Starts a launch script in its own process group, as a terminal does."""
        return subprocess.Popen(
            ["bash", self.root / "launch" / script, *words], cwd=self.root, env=self.environment | environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip

    def call(self, script: str, *words: str, **environment: str) -> tuple[int, str, str]:
        """Runs a launch script; returns its exit status, standard output and standard error."""
        process = self.start(script, *words, **environment)
        output, errors = process.communicate(timeout=120)
        return process.returncode, output, errors

    def starts(self) -> list[dict]:
        """The starts that the stub of mfl_jax recorded."""
        file = self.tmp / "starts"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def ran_nothing(self) -> bool:
        """Whether no cloud was called, no run was started and nothing was installed."""
        return not ((self.cloud / "calls").exists() or self.starts() or (self.root / ".venv").exists())
