"""Ctrl-C and SIGTERM as a request to stop cleanly."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator

NOTICE_S = 25.0
"""Seconds after SIGTERM in which a process may still write. Preempted machines, Slurm and Kubernetes kill it after 30 s."""
ADVICE = "the same command goes on from the last checkpoint"


@contextlib.contextmanager
def stop_requests(notice_s: float = NOTICE_S, advice: str = ADVICE) -> Iterator[threading.Event]:
    """Yields an event that the first SIGINT or SIGTERM sets; a second SIGINT interrupts at once.

    The process ends with status 143 `notice_s` seconds after a SIGTERM, even if the work has not stopped by then, for instance
    during a long compilation. It would be killed anyway, and the next call goes on from the last checkpoint.

    Outside the main thread Python allows no signal handlers, and the event is never set.
    """
    requested = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield requested
        return

    def request(number, frame):
        del number, frame
        requested.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    old_handlers = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
    ended = threading.Event()
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    # Python calls `request` only between two of its instructions; the pipe receives the signal's number at once.
    old_write_end = signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    watcher = threading.Thread(target=_exit_after_notice, args=(read_end, requested, ended, notice_s, advice), daemon=True)
    watcher.start()
    try:
        yield requested
    finally:
        ended.set()
        signal.set_wakeup_fd(old_write_end)
        os.close(write_end)
        watcher.join()
        os.close(read_end)
        for number, handler in old_handlers.items():
            signal.signal(number, handler)


def _exit_after_notice(
    read_end: int, requested: threading.Event, ended: threading.Event, notice_s: float, advice: str
) -> None:  # fmt: skip
    """Ends the process `notice_s` seconds after a SIGTERM; returns when the pipe is closed."""
    while number := os.read(read_end, 1):
        if number[0] == signal.SIGTERM:
            requested.set()
            if not ended.wait(notice_s):
                print(f"SIGTERM: could not stop in time; {advice}", file=sys.stderr)
                sys.stderr.flush()
                os._exit(128 + signal.SIGTERM)
