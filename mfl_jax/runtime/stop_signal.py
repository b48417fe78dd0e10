"""Ctrl-C and SIGTERM as a request to stop in good order."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator

NOTICE_S = 25.0
"""How long after SIGTERM a process may still write: who sends it (a preempted machine, Slurm, Kubernetes) kills after 30 s."""


@contextlib.contextmanager
def stop_requests(notice_s: float = NOTICE_S) -> Iterator[threading.Event]:
    """Turns the first SIGINT or SIGTERM into a set event, for work that looks at it; a second SIGINT interrupts at once.

    After a SIGTERM the process ends in any case `notice_s` later, with status 143: where the work could not stop, in a long
    compilation for instance, it would be killed anyway, and goes on from the last checkpoint.
    """
    requested = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield requested
        return

    def request(number, frame):
        del number, frame
        requested.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
    ended = threading.Event()
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    # Python runs `request` when its main thread comes to it; the number of a signal is in the pipe at once.
    former = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    watch = threading.Thread(target=_watch, args=(reading, requested, ended, notice_s), daemon=True)
    watch.start()
    try:
        yield requested
    finally:
        ended.set()
        signal.set_wakeup_fd(former)
        os.close(writing)
        watch.join()
        os.close(reading)
        for number, handler in before.items():
            signal.signal(number, handler)


def _watch(reading, requested, ended, notice_s) -> None:
    while number := os.read(reading, 1):
        if number[0] == signal.SIGTERM:
            requested.set()
            if not ended.wait(notice_s):
                print("told to end, and not done in time: the same command goes on from the last checkpoint", file=sys.stderr)
                sys.stderr.flush()
                os._exit(128 + signal.SIGTERM)
