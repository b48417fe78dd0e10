"""Paired timings on machines that others use too: the sides take turns, and medians are compared."""

import datetime
import importlib.metadata
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping

import jax


def alternate(sides: Mapping[str, Callable[[], object]], rounds: int) -> dict:
    """Times each side once a round, after one round that does not count.

    Args:
      sides: name -> a call whose result is waited for.

    Returns:
      name -> {"median_s", "lowest_s", "highest_s"}.
    """
    times: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name, side in sides.items():
            started = time.perf_counter()
            jax.block_until_ready(side())
            if number:
                times[name].append(time.perf_counter() - started)
    return {
        name: {"median_s": statistics.median(taken), "lowest_s": min(taken), "highest_s": max(taken)}
        for name, taken in times.items()
    }


def circumstances() -> dict:
    """What a figure depends on beside the code."""
    return {
        "date": datetime.date.today().isoformat(),
        "python": platform.python_version(),
        "cpu_count": len(os.sched_getaffinity(0)),
        "device": jax.devices()[0].device_kind,
        "versions": {name: importlib.metadata.version(name) for name in ("mfl_jax", "jax", "jaxlib", "flax", "optax")},
    }
