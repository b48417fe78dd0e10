"""SIGINT and SIGTERM as a request to stop, and the time limit after SIGTERM."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from mfl_jax.runtime import stop_signal

WORK = """
import hashlib, sys, time
from mfl_jax.runtime.stop_signal import stop_requests
with stop_requests(notice_s=float(sys.argv[1])) as stop:
    print("working", flush=True)
    if sys.argv[2] == "deaf":
        hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)  # one call, during which Python runs no handler
    else:
        while not stop.is_set():
            time.sleep(0.01)
        print("stopped cleanly", flush=True)
"""


def start_work(notice_s, how):
    """Starts a process that works until it is asked to stop, or never looks (`deaf`)."""
    process = subprocess.Popen(
        [sys.executable, "-c", WORK, str(notice_s), how], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "working\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_requests_a_stop(number):
    process = start_work(20, "listening")
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err) == (0, "stopped cleanly\n", "")


def test_work_that_never_looks_is_ended_after_the_notice():
    process = start_work(0.5, "deaf")
    signalled = time.monotonic()
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143 and time.monotonic() - signalled < 10
    assert "the same command goes on from the last checkpoint" in err and "Traceback" not in err


def test_handlers_are_restored():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with stop_signal.stop_requests() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.wait(5)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    assert signal.set_wakeup_fd(-1) == -1


def test_outside_the_main_thread_no_signal_is_handled():
    """Python allows signal handlers in the main thread only; a run in another thread works without."""
    seen = []

    def inside():
        with stop_signal.stop_requests() as requested:
            seen.append(requested.is_set())

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert seen == [False]
