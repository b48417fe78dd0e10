"""Whether two processes that take the same steps end with the same bits."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator

from benchmarks.accelerator import digest, setting
from benchmarks.accelerator.setting import Setting


def measure(setting_: Setting) -> Iterator[dict]:
    """Starts the processes one after the other, each compiling anew; the caller has set XLA's flags for them.

    Raises:
      RuntimeError: a process failed.
    """
    small = ["--small"] if setting_ == setting.SMALL else []
    command = [sys.executable, "-m", "benchmarks.accelerator.one_piece", "digest", *small]
    digests = []
    for _ in range(2):
        process = subprocess.run(command, capture_output=True, text=True)
        if process.returncode:
            raise RuntimeError((process.stderr.strip() or "no message").splitlines()[-1])
        digests.append(json.loads(process.stdout.splitlines()[-1])["digest"])
    yield {
        "piece": "same_bits", "equal": digests[0] == digests[1], "steps": digest.STEPS,
        "xla_flags": os.environ.get("XLA_FLAGS", ""), "digests": digests,
    }  # fmt: skip
