"""history.jsonl: of every start of a run, what made it: code, versions, devices, data."""

import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess
import sys

import jax

from mfl_jax.runtime import parallel, storage, workdir_config

FILE = "history.jsonl"
PACKAGES = ("mfl_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "librosa")


def package_versions() -> dict[str, str]:
    """The versions of what a result depends on."""
    return {name: importlib.metadata.version(name) for name in PACKAGES}


def code_version() -> dict | None:
    """The commit of the checkout that this package runs from, and whether files differ from it; None without git."""
    root = pathlib.Path(__file__).absolute().parent.parent.parent

    def git(*arguments):
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()

    try:
        if pathlib.Path(git("rev-parse", "--show-toplevel")) != root:
            return None  # installed into somebody else's repository
        return {"commit": git("rev-parse", "HEAD"), "changed": bool(git("status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.SubprocessError):
        return None


def describe_start(config, fingerprint: str, devices: list) -> dict:
    """What a result can be made again from, as JSON holds it.

    Args:
      config: of the run. fingerprint: of its data. devices: that compute it.
    """
    return {
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
        "matmul_precision": jax.config.jax_default_matmul_precision or "default",
    }


def record_start(workdir: pathlib.Path, what: dict) -> None:
    """Adds a start to history.jsonl, after those before it."""
    file = workdir / FILE
    before = file.read_text() if file.exists() else ""
    storage.atomic_write(file, f"{before}{json.dumps(what)}\n")
