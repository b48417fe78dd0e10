"""The network of the paper's Table II: a shared convolution stack, a scene head and an event head.

All four systems are this one class; a network built for one task has no head for the other. `forward` describes what the rest of
the project expects of a network.
"""

import functools
import math

import jax
import jax.numpy as jnp
from flax import nnx

from mfl_jax.network import first_conv
from mfl_jax.network.batch_norm import BatchNorm
from mfl_jax.network.bigru import BiGRU
from mfl_jax.network.conv3x3 import Conv3x3
from mfl_jax.network.max_pool import max_pool, pool_mask

TASKS = ("scene", "event")
FREQUENCY_POOLS = (8, 2, 2)
"""Mel bins pooled after each convolution of the shared stack."""
SCENE_TIME_POOL = 25
"""Frames pooled after the first convolution of the scene head."""


class ConvBlock(nnx.Module):
    """3x3 convolution ("same", no bias), batch norm, leaky ReLU, max pooling; then dropout."""

    def __init__(self, inputs: int, outputs: int, pool: tuple[int, int] | None, *, slope: float, dropout: float, rngs: nnx.Rngs):
        """Builds the block; `pool` is the window in frames and bins, None for all of a clip."""
        # No bias: its gradient before batch norm is zero up to rounding, which RAdam would scale up to full steps.
        self.conv = Conv3x3(inputs, outputs, rngs=rngs)
        self.norm = BatchNorm(outputs)
        self.pool = pool
        self.slope, self.dropout = slope, dropout

    def __call__(
        self,
        x: jax.Array,
        mask: jax.Array,
        *,
        train: bool,
        axis_name: str | None,
        dropout_key: jax.Array | None = None,
    ) -> jax.Array:
        """[shape=(B, T, F, inputs)], [shape=(B, T)] -> [shape=(B, T // pool[0], F // pool[1], outputs)].

        `x` must be 0, and the result is 0, where `mask` is False.
        """
        x = self.conv(x)
        gain, shift = self.norm(x, mask, train=train, axis_name=axis_name)
        # Same function, different order: pooling runs before batch norm's gain and shift and the leaky ReLU. These are increasing
        # functions once the sign of the gain is applied first. Less is left to compute, and the gradient of the maximum compares
        # stored values. Later values might be computed twice and rounded differently, so that no value equals the maximum.
        frames, bins = self.pool or x.shape[1:3]
        x = x * _sign(gain).astype(x.dtype)
        if frames > 1:
            x = jnp.where(mask[..., None, None], x, jnp.finfo(x.dtype).min)  # a maximum is that of the valid frames
        x = max_pool(x, frames, bins)
        x = jax.nn.leaky_relu((x * jnp.abs(gain) + shift).astype(x.dtype), self.slope)
        x = _drop(x, self.dropout if train else 0.0, dropout_key)
        return _zero_padding(x, pool_mask(mask, frames))


class FirstConvBlock(ConvBlock):
    """The block that reads the spectrogram: the same function and order as `ConvBlock`, computed by `first_conv`."""

    def __init__(self, outputs: int, bins: int, *, slope: float, dropout: float, rngs: nnx.Rngs):
        """Builds the block; `bins` is the length of a pooling window, which spans one frame."""
        self.bins = bins
        super().__init__(1, outputs, (1, bins), slope=slope, dropout=dropout, rngs=rngs)

    def __call__(
        self,
        x: jax.Array,
        mask: jax.Array,
        *,
        train: bool,
        axis_name: str | None,
        dropout_key: jax.Array | None = None,
    ) -> jax.Array:
        """[shape=(B, T, M)], [shape=(B, T)] -> [shape=(B, T, M // bins, outputs)]; 0 where `mask` is False."""
        kernel = self.conv.kernel[...].astype(x.dtype)
        sums = first_conv.channel_sums(x, kernel, mask) if train else None
        gain, shift = self.norm.from_sums(sums, axis_name=axis_name)
        x = first_conv.conv_and_pool(x, kernel * _sign(gain).astype(x.dtype), self.bins)
        x = jax.nn.leaky_relu((x * jnp.abs(gain) + shift).astype(x.dtype), self.slope)
        return _zero_padding(_drop(x, self.dropout if train else 0.0, dropout_key), mask)


def _sign(gain):
    return jnp.where(gain < 0, -1.0, 1.0)


def _zero_padding(x, mask):
    """Sets padded frames to zero, which is what a convolution sees beyond the end of a clip."""
    return jnp.where(mask.reshape(*mask.shape, *[1] * (x.ndim - 2)), x, 0)


def _drop(x, share, key):
    """Sets a share of the values to zero and scales the others up."""
    if share == 0:
        return x
    keep = jax.random.bernoulli(key, 1 - share, x.shape)
    return jnp.where(keep, x / (1 - share), 0)


# The heads compute in full float32 on TPUs and GPUs too, whose stock products have 8 or 10 bits.
_dense = functools.partial(nnx.Linear, precision=jax.lax.Precision.HIGHEST)


class SharedStack(nnx.Module):
    """Three convolution blocks that pool mel bins and keep every frame."""

    def __init__(self, channels: int, *, slope: float, dropout: float, rngs: nnx.Rngs):
        first, second, third = FREQUENCY_POOLS
        self.conv1 = FirstConvBlock(channels, first, slope=slope, dropout=dropout, rngs=rngs)
        self.conv2 = ConvBlock(channels, channels, (1, second), slope=slope, dropout=dropout, rngs=rngs)
        self.conv3 = ConvBlock(channels, channels, (1, third), slope=slope, dropout=dropout, rngs=rngs)

    def __call__(self, x: jax.Array, mask: jax.Array, *, dropout_keys, **mode) -> jax.Array:
        """[shape=(B, T, M)], [shape=(B, T)] -> [shape=(B, T, M // 32, channels)]."""
        with jax.named_scope("first_block"):  # profiles name the operations after it
            x = self.conv1(x, mask, dropout_key=dropout_keys[0], **mode)  # [B, T, M / 8, C]
        x = self.conv2(x, mask, dropout_key=dropout_keys[1], **mode)  # [B, T, M / 16, C]
        return self.conv3(x, mask, dropout_key=dropout_keys[2], **mode)  # [B, T, M / 32, C]


class SceneHead(nnx.Module):
    """Two convolution blocks, the second pooled over the whole clip, and two dense layers: logits per clip."""

    def __init__(self, inputs: int, channels: int, hidden: int, scenes: int, *, slope: float, dropout: float, rngs: nnx.Rngs):
        self.conv1 = ConvBlock(inputs, channels, (SCENE_TIME_POOL, 1), slope=slope, dropout=dropout, rngs=rngs)
        self.conv2 = ConvBlock(channels, channels, None, slope=slope, dropout=dropout, rngs=rngs)
        self.dense = _dense(channels, hidden, rngs=rngs)
        self.output = _dense(hidden, scenes, rngs=rngs)
        self.slope = slope

    def embed(self, x: jax.Array, mask: jax.Array, *, dropout_keys, **mode) -> jax.Array:
        """Computes the input of the last layer: [shape=(B, T, F, inputs)], [shape=(B, T)] -> [shape=(B, hidden)]."""
        x = self.conv1(x, mask, dropout_key=dropout_keys[0], **mode)  # [B, T / 25, F, channels]
        mask = pool_mask(mask, SCENE_TIME_POOL)
        x = self.conv2(x, mask, dropout_key=dropout_keys[1], **mode)[:, 0, 0]  # [B, channels]
        return jax.nn.leaky_relu(self.dense(x), self.slope)  # [B, hidden]

    def __call__(self, x: jax.Array, mask: jax.Array, **mode) -> jax.Array:
        """[shape=(B, T, F, inputs)], [shape=(B, T)] -> [shape=(B, scenes)]."""
        return self.output(self.embed(x, mask, **mode))


class EventHead(nnx.Module):
    """A bidirectional GRU and two dense layers: logits per frame."""

    def __init__(self, inputs: int, hidden: int, events: int, *, slope: float, rngs: nnx.Rngs):
        self.gru = BiGRU(inputs, hidden, rngs=rngs)
        self.dense = _dense(2 * hidden, hidden, rngs=rngs)
        self.output = _dense(hidden, events, rngs=rngs)
        self.slope = slope

    def embed(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        """Computes the input of the last layer: [shape=(B, T, F, C)], [shape=(B, T)] -> [shape=(B, T, hidden)]."""
        x = x.reshape(*x.shape[:2], -1)  # [B, T, F * C]
        x = self.gru(x, mask)  # [B, T, 2 * hidden]
        return jax.nn.leaky_relu(self.dense(x), self.slope)  # [B, T, hidden]

    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        """[shape=(B, T, F, C)], [shape=(B, T)] -> [shape=(B, T, events)]."""
        return self.output(self.embed(x, mask))


class JointNetwork(nnx.Module):
    """Log-mel spectrograms to scene logits per clip and event logits per frame (Table II)."""

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
        mask_padding: bool = True,
        compute: str = "float32",
        rngs: nnx.Rngs,
    ):
        """Builds the network with random parameters.

        Args:
          frames: frames of a clip; 500 in the paper.
          mel_bins: mel bins of a frame; 64 in the paper.
          scenes: number of scene classes.
          events: number of event classes.
          tasks: heads to build, from `TASKS`.
          channels: width of the shared stack; the scene head is twice as wide.
          hidden: units of the dense layers and of each direction of the GRU.
          slope: slope of the leaky ReLU below zero.
          dropout: share of values dropped after each convolution block in training.
          mask_padding: whether padded frames count nowhere. False counts them as frames of average loudness.
          compute: dtype of the convolutions, their activations and the GRU's input products, `float32` or `bfloat16`.
            Parameters, statistics, the recurrence and the logits are float32 in both cases.
          rngs: random keys for the parameters, stream `params`.

        Raises:
          ValueError: tasks are missing or unknown, a task has no class, or a clip is too small for the pooling.
        """
        _check_size(frames, mel_bins, scenes, events, tasks)
        self.tasks, self.mask_padding, self.compute = tuple(tasks), mask_padding, compute
        self.shared = SharedStack(channels, slope=slope, dropout=dropout, rngs=rngs)
        if "scene" in tasks:
            self.scene = SceneHead(channels, 2 * channels, hidden, scenes, slope=slope, dropout=dropout, rngs=rngs)
        if "event" in tasks:
            self.event = EventHead(_pooled_bins(mel_bins) * channels, hidden, events, slope=slope, rngs=rngs)

    def embed(
        self,
        log_mel: jax.Array,
        *,
        mask: jax.Array | None = None,
        train: bool = False,
        axis_name: str | None = None,
        key: jax.Array | None = None,
    ) -> dict[str, jax.Array]:
        """Computes the output of the shared stack and, for each head, the input of its last layer.

        Args:
          log_mel: normalised spectrograms, float [shape=(B, T, M)].
          mask: bool [shape=(B, T)], False for padded frames, and for all frames of clips that only fill up the batch; all True
            by default. Padded frames come after the valid ones.
          train: whether batch norm uses and records the batch's statistics, and dropout is on.
          axis_name: axis of the devices that share the batch, for batch norm.
          key: random key, required in training with dropout.

        Returns:
          `shared` [shape=(B, T, M // 32, channels)], `scene` [shape=(B, hidden)], `event` [shape=(B, T, hidden)].
        """
        if mask is None:
            mask = jnp.ones(log_mel.shape[:2], bool)
        log_mel = _zero_padding(log_mel, mask)
        if not self.mask_padding:
            mask = jnp.broadcast_to(mask.any(1, keepdims=True), mask.shape)
        keys = [None] * 5 if key is None else list(jax.random.split(key, 5))
        mode = {"train": train, "axis_name": axis_name}
        x = self.shared(log_mel.astype(self.compute), mask, dropout_keys=keys[:3], **mode)  # [B, T, M / 32, C]
        embedded = {"shared": x}
        if "scene" in self.tasks:
            embedded["scene"] = self.scene.embed(x, mask, dropout_keys=keys[3:], **mode)
        if "event" in self.tasks:
            embedded["event"] = self.event.embed(x, mask)
        return embedded

    def __call__(self, log_mel: jax.Array, **mode) -> tuple[jax.Array | None, jax.Array | None]:
        """Computes the logits of both heads; takes the arguments of `embed`.

        Returns:
          Scene logits float32 [shape=(B, S)] and event logits float32 [shape=(B, T, E)]; None for a head that is not built.
        """
        embedded = self.embed(log_mel, **mode)
        scene_logits = self.scene.output(embedded["scene"]) if "scene" in self.tasks else None
        event_logits = self.event.output(embedded["event"]) if "event" in self.tasks else None
        return scene_logits, event_logits


def _check_size(frames: int, mel_bins: int, scenes: int, events: int, tasks: tuple[str, ...]) -> None:
    """Raises ValueError unless a network of these sizes can be built."""
    if not tasks or set(tasks) - set(TASKS):
        raise ValueError(f"tasks must be one or both of {', '.join(TASKS)}, not {tasks}")
    if ("scene" in tasks and scenes < 1) or ("event" in tasks and events < 1):
        raise ValueError(f"every task needs at least one class; got {scenes} scenes and {events} events")
    if _pooled_bins(mel_bins) < 1:
        raise ValueError(f"{mel_bins} mel bins are too few; the shared stack pools {math.prod(FREQUENCY_POOLS)} into one")
    if "scene" in tasks and frames < SCENE_TIME_POOL:
        raise ValueError(f"a clip of {frames} frames is too short; the scene head pools {SCENE_TIME_POOL} frames into one")


def _pooled_bins(mel_bins: int) -> int:
    """Bins after the shared stack."""
    for pool in FREQUENCY_POOLS:
        mel_bins //= pool
    return mel_bins
