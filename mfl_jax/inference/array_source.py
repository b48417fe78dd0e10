"""A recording in memory."""

import dataclasses
import math
import numbers
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from mfl_jax.data import audio_reader
from mfl_jax.errors import InputError

NAME = "array"
"""Name of the recording in its prediction and in messages."""


@dataclasses.dataclass(frozen=True, eq=False)
class ArraySource:
    """Samples that passed the checks of `check_array`."""

    samples: np.ndarray
    rate: int
    name: str = NAME

    @property
    def place(self) -> str:
        return self.name

    def stream_mono(self, sample_rate_hz: int, on_warning: Callable[[str], None]) -> Iterator[np.ndarray]:
        return audio_reader.stream_array(self.samples, self.rate, sample_rate_hz, self.name, on_warning)


def check_array(samples: Any, sample_rate_hz: Any) -> ArraySource:
    """Checks a recording in memory.

    Args:
      samples: anything that NumPy takes as an array [shape=(n,) or (n, channels)]. Floating-point samples have full scale +-1;
        int16 and int32 are divided by 32768 and 2^31, as in files.
      sample_rate_hz: rate of the samples, a whole number.

    Raises:
      InputError: the rate is missing or invalid, there is no sample, or the shape or the type is another one.
    """
    array = np.asarray(samples)
    if sample_rate_hz is None:
        raise InputError(f"{NAME}: the sampling rate is missing: predict(samples, sample_rate_hz)")
    is_number = isinstance(sample_rate_hz, numbers.Real) and not isinstance(sample_rate_hz, bool)
    if not is_number or not math.isfinite(sample_rate_hz) or sample_rate_hz < 1 or sample_rate_hz != int(sample_rate_hz):
        raise InputError(f"{NAME}: the sampling rate must be a whole number of Hz >= 1, not {sample_rate_hz!r}")
    if array.dtype.kind != "f" and not (array.dtype.kind == "i" and array.dtype.itemsize in (2, 4)):
        raise InputError(
            f"{NAME}: the samples have the type {array.dtype}; pass floating-point numbers with full scale 1, int16 or int32"
        )
    if array.ndim not in (1, 2):
        raise InputError(f"{NAME}: the shape must be [samples] or [samples, channels], not {list(array.shape)}")
    if not array.size:
        raise InputError(f"{NAME}: the recording is empty (shape {list(array.shape)})")
    if array.ndim == 2 and array.shape[1] > array.shape[0]:
        raise InputError(
            f"{NAME}: {array.shape[1]} channels of {array.shape[0]} samples; pass [samples, channels] (transpose it)"
        )
    return ArraySource(array.reshape(len(array), -1), int(sample_rate_hz))
