"""Runs a command that prints JSON lines, with a time limit."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence

SHOWN = 2000
"""Characters of a failed command's messages to show."""


def run(command: Sequence[str], limit_s: float, environment: Mapping[str, str]) -> Iterator[dict]:
    """Yields the JSON objects that a command prints, as they come, and a last one with the `error` if it fails.

    Args:
      command: its lines that do not start with `{` are left out.
      limit_s: seconds after which it is ended, together with the processes that it started.
      environment: variables besides those of this process.
    """
    with tempfile.TemporaryFile("w+", errors="replace") as messages:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=messages, text=True, start_new_session=True, env={**os.environ, **environment}
        )
        expired = threading.Event()

        def end():
            if process.poll() is None:
                expired.set()
            os.killpg(process.pid, signal.SIGKILL)

        timer = threading.Timer(limit_s, end)
        timer.start()
        try:
            for line in process.stdout:
                if line.startswith("{"):
                    yield json.loads(line)
            status = process.wait()
        finally:
            timer.cancel()
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        if expired.is_set():
            yield {"error": f"over {limit_s:.0f} s"}
        elif status:
            messages.seek(0)
            text = messages.read().strip()
            print(text[-SHOWN:], file=sys.stderr, flush=True)
            yield {"error": text.splitlines()[-1] if text else f"ended with status {status}"}
