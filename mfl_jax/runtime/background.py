"""Work of the host that the devices need not wait for."""

import concurrent.futures
from collections.abc import Callable
from typing import Any

from mfl_jax.runtime import parallel


class Background:
    """Runs one function at a time in a thread; on several hosts at once in the caller.

    Several hosts must start their sums over hosts in the same order, which a second thread would upset.
    """

    def __init__(self) -> None:
        self._executor = concurrent.futures.ThreadPoolExecutor(1)
        self._running: concurrent.futures.Future | None = None

    def __enter__(self):
        return self

    def __exit__(self, exception_type, *_):
        self._executor.shutdown()
        if exception_type is None:
            self.wait()

    def submit(self, function: Callable, *arguments: Any) -> None:
        """Waits for the function before, then starts this one. Raises what the function before raised."""
        self.wait()
        if parallel.host_count() > 1:
            function(*arguments)
        else:
            self._running = self._executor.submit(function, *arguments)

    def wait(self) -> None:
        """Waits until nothing runs; raises what the last function raised, once."""
        if self._running is not None:
            running, self._running = self._running, None
            running.result()
