"""Times steps in blocks, several steps in flight: the host waits only for the last one of a block."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import jax

from benchmarks.accelerator.setting import Setting

WARM_UP = 3
"""Steps before the first block. CUDA graphs of PyTorch are recorded in the second."""


def measure(step: Callable[[], Any], setting: Setting, wait: Callable[[Any], Any] = jax.block_until_ready) -> dict:
    """Times `setting.blocks` blocks of `setting.steps` steps.

    Args:
      step: starts a step; returns its result, for which `wait` waits.
      setting: the number of blocks and steps.
      wait: waits until a result, and thereby all steps before it, are complete.

    Returns:
      Milliseconds per step: the median of the blocks as `ms`, `lowest_ms`, `highest_ms`.
    """
    for _ in range(WARM_UP):
        wait(step())
    times = []
    for _ in range(setting.blocks):
        started = time.perf_counter()
        for _ in range(setting.steps):
            result = step()
        wait(result)
        times.append((time.perf_counter() - started) / setting.steps * 1e3)
    return {"ms": statistics.median(times), "lowest_ms": min(times), "highest_ms": max(times)}


def peak_gb() -> float | None:
    """The peak memory of the first device in 10^9 bytes; None where JAX does not know it, as on CPUs."""
    peak = (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    return peak and peak / 1e9
