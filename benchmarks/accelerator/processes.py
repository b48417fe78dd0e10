"""Runs a command that prints JSON lines, with a time limit."""

import contextlib
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
    with contextlib.ExitStack() as stack:
        messages = stack.enter_context(tempfile.TemporaryFile("w+", errors="replace"))
        process = stack.enter_context(
            subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=messages,
                text=True,
                start_new_session=True,
                env={**os.environ, **environment},
            )
        )
        stack.callback(_end, process)
        # A process of its own that outlives it may keep the pipe open.
        threading.Thread(target=lambda: (process.wait(), _end(process)), daemon=True).start()
        expired = threading.Event()
        timer = threading.Timer(limit_s, lambda: (expired.set(), _end(process)))
        timer.start()
        stack.callback(timer.cancel)
        for line in process.stdout:
            if line.startswith("{"):
                yield json.loads(line)
        status = process.wait()
        if expired.is_set():
            yield {"error": f"over {limit_s:.0f} s"}
        elif status:
            messages.seek(0)
            text = messages.read().strip()
            print(text[-SHOWN:], file=sys.stderr, flush=True)
            yield {"error": text.splitlines()[-1] if text else f"ended with status {status}"}


def _end(process: subprocess.Popen) -> None:
    """Ends a process, and those that it started and that are left."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
