"""A vmap rule for several networks at once: one call per network.

`jax.vmap` over the kernels turns a stock convolution into a grouped convolution, which CPUs and cuDNN run many times slower
than separate convolutions.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap


def unroll_vmap(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns `function` with a vmap rule that calls it once for each entry of the mapped axis and stacks the results."""

    @custom_vmap
    def unrolled(*arrays):
        return function(*arrays)

    @unrolled.def_vmap
    def rule(size, mapped, *arrays):
        def entry(i):
            return unrolled(*(array[i] if is_mapped else array for array, is_mapped in zip(arrays, mapped, strict=True)))

        stacked = jax.tree.map(lambda *parts: jnp.stack(parts), *map(entry, range(size)))
        return stacked, jax.tree.map(lambda _: True, stacked)

    return unrolled
