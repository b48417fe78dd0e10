"""From a batch of log-mel spectrograms to the network's logits, and the protocol of a network.

Training, evaluation and inference use a network only through this module and `mfl_jax.inference.trained_model`.
To replace `JointNetwork`, change `training.setup.build_network` to return another `nnx.Module` that provides:

State: every variable is an `nnx.Param` (trained) or an `nnx.BatchStat` (recorded in training). The module is split into
  (graphdef, params, batch_stats) and merged again inside transformed functions. Training adds up the gradients of the devices,
  but not the batch statistics, which the network must make equal on all devices (see `axis_name`).

`network(log_mel, *, mask, train, axis_name, key)`: the logits (scene, event), float32 [shape=(B, S)] and
  [shape=(B, T, E)], with None for a head that the config's tasks do not include.
  log_mel: float32 [shape=(B, T, M)], normalised; padded frames are 0.
  mask: bool [shape=(B, T)]. False for padded frames, which come after the valid ones, and for all frames of a clip that only
    fills up the batch. Such frames must not change the other logits, gradients or statistics. Their logits are ignored.
  train: False means that clips are independent of each other, since inference may cut a batch into smaller ones.
  axis_name: name of the device axis under `pmap`, None on one device. Statistics of the batch must be summed over it
    (`jax.lax.psum`).
  key: random key in training, from the seed, the step and the device; otherwise None.

`network.embed(...)`: the same arguments; a dictionary of `shared` [shape=(B, T, ...)], `scene` [shape=(B, ...)] and `event`
  [shape=(B, T, ...)], without heads that are not built. Only `TrainedModel.embeddings` uses it.

All of it must be differentiable with respect to the parameters and `log_mel`, and work under `jax.vmap` over parameters
(several runs at once). `exporting.onnx_graph` reads the layers of `JointNetwork` and needs its own counterpart.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from mfl_jax.frame_mask import frame_mask
from mfl_jax.network.cpu import on_cpu, small_batches

Logits = tuple[jax.Array | None, jax.Array | None]
"""Of scenes [shape=(B, S)] and of events [shape=(B, T, E)]; None for a head that is not built."""

NETWORK_KEYS = ("log_mel", "valid_frames", "clip_mask")
"""The entries of a batch that the network sees."""


def normalise(log_mel: jax.Array, valid_frames: jax.Array, feature_stats: Mapping[str, jax.Array]) -> jax.Array:
    """Scales each mel bin to mean 0 and standard deviation 1 over the training split; padded frames become 0.

    Args:
      log_mel: [shape=(B, T, M)].
      valid_frames: number of frames before the padding, int [shape=(B,)].
      feature_stats: `mean` and `std` [shape=(M,)].

    Returns:
      float32 [shape=(B, T, M)].
    """
    normal = (log_mel - feature_stats["mean"]) / feature_stats["std"]
    valid = frame_mask(valid_frames, log_mel.shape[1])
    return jnp.where(valid[..., None], normal, 0.0)


def valid_mask(batch: Mapping[str, jax.Array]) -> jax.Array:
    """Marks the valid frames of the valid clips of a batch: bool [shape=(B, T)]."""
    return jnp.asarray(frame_mask(batch["valid_frames"], batch["log_mel"].shape[1]) & batch["clip_mask"][:, None])


def apply_network(
    params: Mapping[str, Any],
    batch_stats: Mapping[str, Any],
    feature_stats: Mapping[str, jax.Array],
    batch: Mapping[str, jax.Array],
    *,
    graphdef: nnx.GraphDef,
    train: bool,
    axis_name: str | None = None,
    key: jax.Array | None = None,
) -> tuple[Logits, dict]:
    """Runs the network on a batch.

    Args:
      params: the network's parameters.
      batch_stats: its batch statistics.
      feature_stats: as for `normalise`.
      batch: `log_mel` [shape=(B, T, M)], `valid_frames` int [shape=(B,)] and `clip_mask` bool [shape=(B,)].
      graphdef: structure of the network.
      train: see the protocol above.
      axis_name: see the protocol above.
      key: see the protocol above.

    Returns:
      The logits, and the batch statistics afterwards.
    """
    network = nnx.merge(graphdef, params, batch_stats, copy=True)
    logits = network(
        normalise(batch["log_mel"], batch["valid_frames"], feature_stats),
        mask=valid_mask(batch), train=train, axis_name=axis_name, key=key,
    )  # fmt: skip
    return logits, nnx.to_pure_dict(nnx.state(network, nnx.BatchStat))


def infer(
    params: Mapping[str, Any],
    batch_stats: Mapping[str, Any],
    feature_stats: Mapping[str, jax.Array],
    batch: Mapping[str, Any],
    *,
    graphdef: nnx.GraphDef,
) -> Logits:
    """Computes the logits of a batch with the running batch statistics; arguments as for `apply_network`."""

    def compute_logits(batch):
        return apply_network(params, batch_stats, feature_stats, batch, graphdef=graphdef, train=False)[0]

    return map_clips(compute_logits, batch)


def map_clips(function: Callable[[dict], Any], batch: Mapping[str, Any]) -> Any:
    """Applies a function of `NETWORK_KEYS` to a batch; each clip's result must be independent of the other clips."""
    inputs = {key: jnp.asarray(batch[key]) for key in NETWORK_KEYS}
    return on_cpu(functools.partial(small_batches.map_small_batches, function), elsewhere=function)(inputs)
