"""A request to stop, and the time that is left after it."""

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
        print("stopped in good order", flush=True)
"""


def work(notice_s, how):
    process = subprocess.Popen(
        [sys.executable, "-c", WORK, str(notice_s), how], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "working\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_a_request(number):
    process = work(20, "listening")
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err) == (0, "stopped in good order\n", "")


def test_work_that_does_not_listen_ends_in_time_all_the_same():
    process = work(0.5, "deaf")
    told = time.monotonic()
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143 and time.monotonic() - told < 10
    assert "the same command goes on from the last checkpoint" in err and "Traceback" not in err


def test_handlers_are_put_back():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with stop_signal.stop_requests() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.wait(5)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    assert signal.set_wakeup_fd(-1) == -1


def test_other_threads_are_left_alone():
    """A run in a thread of somebody's program can't have signal handlers, and works without."""
    seen = []

    def inside():
        with stop_signal.stop_requests() as requested:
            seen.append(requested.is_set())

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert seen == [False]
