"""Notices signals that were probably stored or mixed wrongly: wrong scale, silence, channels that cancel."""

import math

import numpy as np

MAX_PEAK = 10.0
"""Highest peak that is no cause for a warning. Recordings in floating point may exceed full scale, 1, by some decibels."""
MAX_CANCELLATION = 1e-4
"""Lowest share of power that averaging the channels may leave over: -40 dB."""


class SignalChecks:
    """Collects the range and the power of a recording, block by block."""

    def __init__(self) -> None:
        self._low, self._high = math.inf, -math.inf
        self._power = self._mono_power = 0.0

    def add(self, block: np.ndarray, mono: np.ndarray, low: float, high: float) -> None:
        """Adds the next samples.

        Args:
          block: float32 [shape=(n, channels)], n > 0.
          mono: the mean of the channels, float32 [shape=(n,)].
          low: the lowest sample.
          high: the highest sample.
        """
        self._low, self._high = min(self._low, low), max(self._high, high)
        channels = block.shape[1]
        if channels > 1:
            flat = block.reshape(-1)
            self._power += float(np.dot(flat, flat)) / channels
            self._mono_power += float(np.dot(mono, mono))

    def warnings(self) -> list[str]:
        """Returns what is suspicious about the recording."""
        peak = max(self._high, -self._low)
        if self._low == self._high:
            return [f"it is silent: every sample is {self._high:g}"]
        found = []
        if peak > MAX_PEAK:
            found.append(
                f"its samples reach {peak:g} times full scale; rescale them to +-1 if they are integers stored as floats"
            )
        if self._mono_power < MAX_CANCELLATION * self._power:
            left = f"{10 * math.log10(self._mono_power / self._power):.0f} dB" if self._mono_power else "silence"
            found.append(f"its channels cancel when averaged ({left} is left); invert one of them or keep only one")
        return found
