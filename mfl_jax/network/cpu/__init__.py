"""CPU forms of some of the network's operations. TPUs and GPUs run none of this package.

The network reaches the package through `on_cpu` alone:

    on_cpu(cpu_form, elsewhere=stock_form)

  `winograd`             3x3 convolution with half the multiplications
  `first_conv_products`  sums of the first convolution as matrix products
  `small_batches`        inference with a few clips at a time, so that activations stay in the cache

A CPU form computes the same as the stock form up to rounding. To drop one, call its stock form directly.
"""

from collections.abc import Callable
from typing import Any

import jax


def on_cpu(
    cpu_form: Callable[..., Any], *, elsewhere: Callable[..., Any], suits: Callable[..., bool] = lambda *arrays: True
) -> Callable[..., Any]:
    """Returns a function that computes `cpu_form` on CPUs and `elsewhere` on other hardware.

    The choice is made when the function is lowered for a platform, so an exported program contains its platform's form.

    Args:
      cpu_form: function of arrays, or of pytrees of arrays.
      elsewhere: the stock form, a function of the same arguments with the same result.
      suits: whether `cpu_form` can take arguments of these shapes and dtypes; otherwise CPUs use the stock form too.
    """

    def choose(*arrays):
        if not suits(*arrays):
            return elsewhere(*arrays)
        return jax.lax.platform_dependent(*arrays, cpu=cpu_form, default=elsewhere)

    return choose
