"""Killing a process, and checking that the lock of a killed process is free."""

import fcntl
import os
import pathlib
import signal
import subprocess
import time
from collections.abc import Callable


def is_free(lock: pathlib.Path, patience_s: float = 1.0) -> bool:
    """Whether no process holds a lock.

    Args:
      lock: the file, which need not exist.
      patience_s: how long to wait for a lock to become free: a child inherits it until it executes another program.
    """
    deadline = time.monotonic() + patience_s
    while lock.exists():
        with open(lock) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    return False
        time.sleep(0.01)
    return True


def stop_and_kill(process: subprocess.Popen, look: Callable[[], str]) -> tuple[int | None, str]:
    """Stops a process (SIGSTOP), calls `look`, and kills the process (SIGKILL).

    Args:
      process: a child of this process.
      look: called while the process is stopped.

    Returns:
      None and the result of `look`; or, if the process had already ended, its exit status and "".
    """
    process.send_signal(signal.SIGSTOP)
    if process.returncode is None:
        change = os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        if change.si_code == os.CLD_STOPPED:
            seen = look()
            process.kill()
            if process.wait() == -signal.SIGKILL:
                return None, seen
    return process.wait(), ""


def read_last_line(text: str) -> str:
    """The last line of the output of a command, at most 300 characters."""
    return text.strip().rpartition("\n")[2][-300:]
