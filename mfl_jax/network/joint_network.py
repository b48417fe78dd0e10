"""The network of the paper's Table II: a shared convolution stack, a scene head and an event head.

All four systems are this one class: a network without one of the heads neither builds nor computes it.
"""

import functools
import math

import jax
import jax.numpy as jnp
from flax import nnx

from mfl_jax.network import first_conv
from mfl_jax.network.bigru import BiGRU
from mfl_jax.network.conv3x3 import Conv3x3

TASKS = ("scene", "event")
FREQUENCY_POOLS = (8, 2, 2)
"""Mel bins pooled after each convolution of the shared stack."""
SCENE_TIME_POOL = 25
"""Frames pooled after the first convolution of the scene head."""


class BatchNorm(nnx.Module):
    """Normalises each channel over clips, frames and bins; padded clips do not count, and devices count together.

    Training uses the batch's mean and (biased) variance and moves the running ones by `momentum` towards the batch's mean
    and unbiased variance; otherwise the running ones serve. flax's own layer averages the devices' means, which is wrong when
    one device holds more padding than another.
    """

    def __init__(self, channels: int, *, momentum: float = 0.1, epsilon: float = 1e-5):
        self.momentum, self.epsilon = momentum, epsilon
        self.scale = nnx.Param(jnp.ones(channels, jnp.float32))
        self.bias = nnx.Param(jnp.zeros(channels, jnp.float32))
        self.mean = nnx.BatchStat(jnp.zeros(channels, jnp.float32))
        self.var = nnx.BatchStat(jnp.ones(channels, jnp.float32))

    def __call__(self, x: jax.Array, clip_mask: jax.Array, *, train: bool, axis_name: str | None) -> tuple[jax.Array, jax.Array]:
        """x [shape=(B, ..., C)], clip_mask bool [shape=(B,)] -> gain and shift [shape=(C,)]: x * gain + shift is normalised."""
        return self.from_sums(self._sums(x, clip_mask) if train else None, axis_name=axis_name)

    @staticmethod
    def _sums(x, clip_mask):
        weights = clip_mask.astype(jnp.float32).reshape(-1, *[1] * (x.ndim - 1))
        axes = tuple(range(x.ndim - 1))
        x = x.astype(jnp.float32)
        count = jnp.sum(weights) * math.prod(x.shape[1:-1])
        return count, jnp.sum(weights * x, axes), jnp.sum(weights * jnp.square(x), axes)

    def from_sums(self, sums: tuple | None, *, axis_name: str | None) -> tuple[jax.Array, jax.Array]:
        """The same from the count, sum [shape=(C,)] and sum of squares [shape=(C,)] of a device's values; None to not train."""
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


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def max_pool(x: jax.Array, frames: int, bins: int) -> jax.Array:
    """Maximum over non-overlapping windows [shape=(B, T, F, C)] -> [shape=(B, T // frames, F // bins, C)].

    Of several highest values in a window, each gets an equal share of the gradient.
    """
    return _windows(x, frames, bins).max(axis=(2, 4))


def _windows(x, frames, bins):
    """[shape=(B, T, F, C)] -> [shape=(B, T // frames, frames, F // bins, bins, C)]; what fills no window is left out."""
    batch, time, frequency, channels = x.shape
    time, frequency = time // frames, frequency // bins
    x = x[:, : time * frames, : frequency * bins]
    return x.reshape(batch, time, frames, frequency, bins, channels)


def _max_pool_forward(x, frames, bins):
    highest = max_pool(x, frames, bins)
    return highest, (x, highest)


def _max_pool_backward(frames, bins, saved, cotangent):
    # Written out, since it takes XLA less than half the time of the gradient that it makes of a maximum.
    x, highest = saved
    chosen = _windows(x, frames, bins) == highest[:, :, None, :, None]
    share = cotangent / chosen.sum((2, 4)).astype(x.dtype)
    gradient = jnp.where(chosen, share[:, :, None, :, None], 0)
    used = (highest.shape[1] * frames, highest.shape[2] * bins)
    gradient = gradient.reshape(x.shape[0], *used, x.shape[3])
    return (jnp.pad(gradient, ((0, 0), (0, x.shape[1] - used[0]), (0, x.shape[2] - used[1]), (0, 0))),)


max_pool.defvjp(_max_pool_forward, _max_pool_backward)


class ConvBlock(nnx.Module):
    """3x3 convolution ("same", no bias), batch norm, leaky ReLU, max pooling, dropout."""

    def __init__(self, inputs: int, outputs: int, *, slope: float, dropout: float, rngs: nnx.Rngs):
        # A bias before batch norm has gradient zero but for rounding, which RAdam would blow up to full steps.
        self.conv = Conv3x3(inputs, outputs, rngs=rngs)
        self.norm = BatchNorm(outputs)
        self.slope, self.dropout = slope, dropout

    def __call__(self, x, clip_mask, *, pool, train, axis_name, dropout_key=None):
        """[shape=(B, T, F, inputs)] -> [shape=(B, T // pool[0], F // pool[1], outputs)]."""
        x = self.conv(x)
        gain, shift = self.norm(x, clip_mask, train=train, axis_name=axis_name)
        x = max_pool(x * _sign(gain).astype(x.dtype), *pool)
        return self._after_pool(x, gain, shift, train, dropout_key)

    def _after_pool(self, x, gain, shift, train, dropout_key):
        x = jax.nn.leaky_relu((x * jnp.abs(gain) + shift).astype(x.dtype), self.slope)
        if train and self.dropout > 0:
            keep = jax.random.bernoulli(dropout_key, 1 - self.dropout, x.shape)
            x = jnp.where(keep, x / (1 - self.dropout), 0)
        return x


def _sign(gain):
    """What the values are multiplied by before the maximum, which stands before what the paper has in front of it.

    All of that rises (leaky ReLU) or is a line, turned upside down where its gain is negative. There is less left to compute
    after the maximum, and its gradient compares stored numbers with exact copies of themselves. After the line it would
    compare values that a compiler may round in two ways, and lose its target.
    """
    return jnp.where(gain < 0, -1.0, 1.0)


class FirstConvBlock(ConvBlock):
    """The block that sees the spectrogram; the same function, see `first_conv`."""

    def __init__(self, outputs: int, *, slope: float, dropout: float, rngs: nnx.Rngs):
        super().__init__(1, outputs, slope=slope, dropout=dropout, rngs=rngs)

    def __call__(self, x, clip_mask, *, pool, train, axis_name, dropout_key=None):
        """[shape=(B, T, M)] -> [shape=(B, T, M // pool, outputs)]."""
        kernel = self.conv.kernel[...].astype(x.dtype)
        sums = first_conv.channel_sums(x, kernel, clip_mask) if train else None
        gain, shift = self.norm.from_sums(sums, axis_name=axis_name)
        x = first_conv.highest_of_windows(x, kernel * _sign(gain).astype(x.dtype), pool)
        return self._after_pool(x, gain, shift, train, dropout_key)


class SharedStack(nnx.Module):
    """Three convolutions that pool the mel bins and keep the frames."""

    def __init__(self, channels: int, *, slope, dropout, rngs):
        self.conv1 = FirstConvBlock(channels, slope=slope, dropout=dropout, rngs=rngs)
        self.conv2 = ConvBlock(channels, channels, slope=slope, dropout=dropout, rngs=rngs)
        self.conv3 = ConvBlock(channels, channels, slope=slope, dropout=dropout, rngs=rngs)

    def __call__(self, x, clip_mask, *, dropout_keys, **mode):
        """[shape=(B, T, M)] -> [shape=(B, T, M // 32, channels)]."""
        first, second, third = FREQUENCY_POOLS
        x = self.conv1(x, clip_mask, pool=first, dropout_key=dropout_keys[0], **mode)  # [B, T, M / 8, C]
        x = self.conv2(x, clip_mask, pool=(1, second), dropout_key=dropout_keys[1], **mode)  # [B, T, M / 16, C]
        return self.conv3(x, clip_mask, pool=(1, third), dropout_key=dropout_keys[2], **mode)  # [B, T, M / 32, C]


class SceneHead(nnx.Module):
    """Two convolutions, a global maximum, two dense layers: one row of logits a clip."""

    def __init__(self, inputs: int, channels: int, hidden: int, scenes: int, *, slope, dropout, rngs):
        self.conv1 = ConvBlock(inputs, channels, slope=slope, dropout=dropout, rngs=rngs)
        self.conv2 = ConvBlock(channels, channels, slope=slope, dropout=dropout, rngs=rngs)
        self.dense = nnx.Linear(channels, hidden, rngs=rngs)
        self.output = nnx.Linear(hidden, scenes, rngs=rngs)
        self.slope = slope

    def embed(self, x, clip_mask, *, dropout_keys, **mode):
        """[shape=(B, T, F, inputs)] -> [shape=(B, hidden)], what the logits are a linear function of."""
        x = self.conv1(x, clip_mask, pool=(SCENE_TIME_POOL, 1), dropout_key=dropout_keys[0], **mode)
        everything = (x.shape[1], x.shape[2])
        x = self.conv2(x, clip_mask, pool=everything, dropout_key=dropout_keys[1], **mode)[:, 0, 0]  # [B, channels]
        return jax.nn.leaky_relu(self.dense(x), self.slope)  # [B, hidden]

    def __call__(self, x, clip_mask, **mode):
        """[shape=(B, T, F, inputs)] -> [shape=(B, scenes)]."""
        return self.output(self.embed(x, clip_mask, **mode))


class EventHead(nnx.Module):
    """A bidirectional GRU and two dense layers: one row of logits a frame."""

    def __init__(self, inputs: int, hidden: int, events: int, *, slope, rngs):
        self.gru = BiGRU(inputs, hidden, rngs=rngs)
        self.dense = nnx.Linear(2 * hidden, hidden, rngs=rngs)
        self.output = nnx.Linear(hidden, events, rngs=rngs)
        self.slope = slope

    def embed(self, x):
        """[shape=(B, T, F, C)] -> [shape=(B, T, hidden)], what the logits are a linear function of."""
        x = x.reshape(*x.shape[:2], -1)  # [B, T, F * C]
        x = self.gru(x)  # [B, T, 2 * hidden]
        return jax.nn.leaky_relu(self.dense(x), self.slope)  # [B, T, hidden]

    def __call__(self, x):
        """[shape=(B, T, F, C)] -> [shape=(B, T, events)]."""
        return self.output(self.embed(x))


class JointNetwork(nnx.Module):
    """Log-mel spectrograms to scene logits, a row a clip, and event logits, a row a frame (Table II)."""

    def __init__(
        self,
        *,
        frames: int,
        mel_bins: int,
        scenes: int,
        events: int,
        tasks: tuple[str, ...] = TASKS,
        channels: int = 128,
        hidden: int = 32,
        slope: float = 0.01,
        dropout: float = 0.0,
        compute: str = "float32",
        rngs: nnx.Rngs,
    ):
        """Builds the network with random parameters.

        Args:
          frames, mel_bins: size of a clip's spectrogram; 500 and 64 in the paper.
          scenes, events: number of classes of each task.
          tasks: the heads to build, of `TASKS`.
          channels: width of the shared stack; the scene head has twice as many.
          hidden: units of the GRU (a direction) and of the dense layers.
          slope: of the leaky ReLU below zero.
          dropout: share of the values dropped after each convolution block in training.
          compute: dtype of the convolutions, of what lies between them and of the GRU's input products, `float32` or
            `bfloat16`; parameters, statistics, the recurrence and the logits are float32 in either.
          rngs: source of the parameters, stream `params`.

        Raises:
          ValueError: no or an unknown task, no class, or a clip too small for the pooling.
        """
        if not tasks or set(tasks) - set(TASKS):
            raise ValueError(f"tasks are one or both of {', '.join(TASKS)}, not {tasks}")
        if ("scene" in tasks and scenes < 1) or ("event" in tasks and events < 1):
            raise ValueError(f"a task needs at least one class; there are {scenes} scenes and {events} events")
        bins = mel_bins
        for pool in FREQUENCY_POOLS:
            bins //= pool
        if bins < 1:
            raise ValueError(f"{mel_bins} mel bins are too few: at least {math.prod(FREQUENCY_POOLS)} are pooled into one")
        if "scene" in tasks and frames < SCENE_TIME_POOL:
            raise ValueError(f"a clip of {frames} frames is too short: {SCENE_TIME_POOL} frames are pooled into one")
        self.tasks, self.compute = tuple(tasks), compute
        self.shared = SharedStack(channels, slope=slope, dropout=dropout, rngs=rngs)
        if "scene" in tasks:
            self.scene = SceneHead(channels, 2 * channels, hidden, scenes, slope=slope, dropout=dropout, rngs=rngs)
        if "event" in tasks:
            self.event = EventHead(bins * channels, hidden, events, slope=slope, rngs=rngs)

    def embed(
        self,
        log_mel: jax.Array,
        *,
        clip_mask: jax.Array | None = None,
        train: bool = False,
        axis_name: str | None = None,
        dropout_key: jax.Array | None = None,
    ) -> dict[str, jax.Array]:
        """Computes what lies between the layers: the output of the shared stack, and of each head before its last layer.

        Args:
          log_mel: normalised spectrograms, float [shape=(B, T, M)].
          clip_mask: bool [shape=(B,)], False for clips that only fill up the batch; all True by default.
          train: whether batch norm uses and records the batch's statistics, and dropout is on.
          axis_name: the device axis over which batch norm's statistics are taken.
          dropout_key: needed for training with dropout.

        Returns:
          `shared` [shape=(B, T, M // 32, channels)], `scene` [shape=(B, hidden)], `event` [shape=(B, T, hidden)].
        """
        if clip_mask is None:
            clip_mask = jnp.ones(log_mel.shape[0], bool)
        keys = [None] * 5 if dropout_key is None else list(jax.random.split(dropout_key, 5))
        mode = {"train": train, "axis_name": axis_name}
        x = self.shared(log_mel.astype(self.compute), clip_mask, dropout_keys=keys[:3], **mode)  # [B, T, M / 32, C]
        embedded = {"shared": x}
        if "scene" in self.tasks:
            embedded["scene"] = self.scene.embed(x, clip_mask, dropout_keys=keys[3:], **mode)
        if "event" in self.tasks:
            embedded["event"] = self.event.embed(x)
        return embedded

    def __call__(self, log_mel: jax.Array, **mode) -> tuple[jax.Array | None, jax.Array | None]:
        """Computes the logits of both heads, from what `embed` takes.

        Returns:
          Scene logits float32 [shape=(B, S)] and event logits float32 [shape=(B, T, E)]; None for a head that is not built.
        """
        embedded = self.embed(log_mel, **mode)
        return tuple(getattr(self, task).output(embedded[task]) if task in self.tasks else None for task in TASKS)
