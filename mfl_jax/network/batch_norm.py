"""Batch normalisation over the valid frames of all devices."""

import math

import jax
import jax.numpy as jnp
from flax import nnx

Sums = tuple[jax.Array, jax.Array, jax.Array]
"""Number of values per channel [shape=()], their sum and the sum of their squares [shape=(C,)]; float32."""


class BatchNorm(nnx.Module):
    """Per-channel gain and shift that normalise over clips, frames and bins.

    Training uses the mean and the biased variance of the batch, and moves the running statistics by `momentum` towards the
    batch's mean and unbiased variance. Inference uses the running statistics. Frames outside the mask do not count. Over several
    devices the sums are added, so devices may hold different numbers of valid frames (Flax's layer averages their means).
    """

    def __init__(self, channels: int, *, momentum: float = 0.1, epsilon: float = 1e-5):
        self.momentum, self.epsilon = momentum, epsilon
        self.scale = nnx.Param(jnp.ones(channels, jnp.float32))
        self.bias = nnx.Param(jnp.zeros(channels, jnp.float32))
        self.mean = nnx.BatchStat(jnp.zeros(channels, jnp.float32))
        self.var = nnx.BatchStat(jnp.ones(channels, jnp.float32))

    def __call__(self, x: jax.Array, mask: jax.Array, *, train: bool, axis_name: str | None) -> tuple[jax.Array, jax.Array]:
        """Computes the gain and the shift of each channel; x * gain + shift is normalised.

        Args:
          x: values [shape=(B, T, ..., C)].
          mask: bool [shape=(B, T)], True for the valid frames of valid clips.
          train: whether to use and record the statistics of the batch.
          axis_name: axis of the devices that share the batch, if any.

        Returns:
          Gain and shift, float32 [shape=(C,)].
        """
        return self.from_sums(self._sums(x, mask) if train else None, axis_name=axis_name)

    @staticmethod
    def _sums(x, mask) -> Sums:
        weights = mask.astype(jnp.float32).reshape(*mask.shape, *[1] * (x.ndim - 2))
        axes = tuple(range(x.ndim - 1))
        x = x.astype(jnp.float32)
        count = jnp.sum(weights) * math.prod(x.shape[2:-1])
        return count, jnp.sum(weights * x, axes), jnp.sum(weights * jnp.square(x), axes)

    def from_sums(self, sums: Sums | None, *, axis_name: str | None) -> tuple[jax.Array, jax.Array]:
        """As `__call__`, from the sums over this device's valid frames; None uses the running statistics."""
        if sums is not None:
            if axis_name is not None:
                sums = jax.lax.psum(sums, axis_name)
            count = jnp.maximum(sums[0], 1.0)
            mean = sums[1] / count
            var = jnp.maximum(sums[2] / count - jnp.square(mean), 0.0)
            unbiased = var * count / jnp.maximum(count - 1.0, 1.0)
            self.mean[...] += self.momentum * (jax.lax.stop_gradient(mean) - self.mean[...])
            self.var[...] += self.momentum * (jax.lax.stop_gradient(unbiased) - self.var[...])
        else:
            mean, var = self.mean[...], self.var[...]
        gain = self.scale[...] * jax.lax.rsqrt(var + self.epsilon)
        return gain, self.bias[...] - mean * gain
