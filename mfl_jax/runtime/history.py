"""history.jsonl: one line per start of a run, with its time, code, versions, devices and data."""

import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess
import sys
from typing import Any

import jax

from mfl_jax.runtime import parallel, storage, workdir_config

FILE = "history.jsonl"
PACKAGES = ("mfl_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "librosa")


def package_versions() -> dict[str, str]:
    """Returns the versions of the packages that a result depends on."""
    return {name: package_version(name) for name in PACKAGES}


def package_version(name: str) -> str:
    """Returns the version of a package, or `not installed`: a checkout runs without being installed itself."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def code_version() -> dict | None:
    """Returns the commit that this package runs from, and whether tracked files differ from it; None outside a checkout."""
    root = pathlib.Path(__file__).absolute().parent.parent.parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()

    try:
        if pathlib.Path(git("rev-parse", "--show-toplevel")) != root:
            return None  # installed inside another repository
        return {"commit": git("rev-parse", "HEAD"), "changed": bool(git("status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.SubprocessError):
        return None


def build_start_record(config, fingerprint: str, devices: list[jax.Device]) -> dict[str, Any]:
    """Returns everything needed to reproduce a run, as JSON represents it.

    Args:
      config: of the run.
      fingerprint: of its data set.
      devices: that compute it.
    """
    return {
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "config": workdir_config.to_plain_dict(config),
        "seed": config.seed,
        "fingerprint": fingerprint,
        "code": code_version(),
        "versions": package_versions(),
        "python": platform.python_version(),
        "system": platform.platform(),
        "device": devices[0].device_kind,
        "devices": len(devices),
        "hosts": parallel.host_count(),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        # jax 0.10 does not declare its settings for type checkers.
        "matmul_precision": jax.config.jax_default_matmul_precision or "default",  # type: ignore[attr-defined]
    }


def append_start(workdir: pathlib.Path, record: dict[str, Any]) -> None:
    """Appends one start to history.jsonl."""
    file = workdir / FILE
    earlier_lines = file.read_text() if file.exists() else ""
    storage.atomic_write(file, f"{earlier_lines}{json.dumps(record)}\n")
