"""Runs the pieces in their order, each in its process, within the time for all of them."""

import concurrent.futures
import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence

from benchmarks.accelerator import one_piece, pieces, processes
from benchmarks.accelerator.setting import FULL, SMALL

SMALL_LIMITS = 4
"""Times the limits with the tiny network, since CPUs compile slowly."""
LEAST_S = 10
"""A piece is not started with less time than this."""


def run_pieces(names: Sequence[str], *, small: bool, in_process: bool, minutes: float) -> Iterator[dict]:
    """Runs pieces stage by stage; yields their figures as they come.

    Args:
      names: of `pieces.PIECES`.
      small: whether to use the tiny network.
      in_process: whether to run them in this process, without time limits.
      minutes: for all of them.
    """
    deadline, platform = time.perf_counter() + 60 * minutes, None

    def run(name: str) -> Iterator[dict]:
        left_s = deadline - time.perf_counter()
        if in_process:
            return _run_here(name, small)
        if left_s < LEAST_S:
            return iter([{"piece": name, "skipped": f"the {minutes:g} minutes are over"}])
        return _run_apart(name, small, left_s, on_gpu=platform == "gpu")

    for stage in pieces.STAGES:
        chosen = [name for name in stage if name in names]
        if platform == "gpu" and len(chosen) > 1:
            with concurrent.futures.ThreadPoolExecutor(len(chosen)) as pool:
                for entries in pool.map(lambda name: list(_time(run(name))), chosen):
                    yield from entries
            continue
        for name in chosen:
            for entry in _time(run(name)):
                platform = entry.get("platform", platform)
                yield entry


def _time(entries: Iterator[dict]) -> Iterator[dict]:
    """Adds the seconds since the entry before."""
    started = time.perf_counter()
    for entry in entries:
        now = time.perf_counter()
        yield {"piece": entry["piece"], "seconds": now - started, **entry}
        started = now


def _run_here(name: str, small: bool) -> Iterator[dict]:
    try:
        yield from pieces.PIECES[name].measure(SMALL if small else FULL)
    except Exception as error:
        yield {"piece": name, "error": one_piece.one_line(error)}


def _run_apart(name: str, small: bool, left_s: float, *, on_gpu: bool) -> Iterator[dict]:
    piece = pieces.PIECES[name]
    command = [sys.executable, "-m", one_piece.__name__, name, *["--small"] * small]
    environment = dict(piece.environment)
    if on_gpu and piece.gpu_flags:
        environment["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {piece.gpu_flags}".strip()
    limit_s = piece.limit_s * (SMALL_LIMITS if small else 1)
    for entry in processes.run(command, min(limit_s, left_s), environment):
        yield {"piece": name, **entry}


@contextlib.contextmanager
def compilation_cache(small: bool) -> Iterator[None]:
    """Lets the processes share programs, in an empty folder so that times of compilation are right."""
    if small and "JAX_COMPILATION_CACHE_DIR" in os.environ:
        yield
        return
    with tempfile.TemporaryDirectory() as folder:
        os.environ.update(JAX_COMPILATION_CACHE_DIR=folder, JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0")
        yield
