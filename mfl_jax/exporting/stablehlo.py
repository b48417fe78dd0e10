"""A trained network as a StableHLO program, in the serialised form of `jax.export`."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from mfl_jax.exporting import log_mel_in_jax
from mfl_jax.exporting.formats import require_package
from mfl_jax.frame_mask import frame_mask
from mfl_jax.inference.trained_model import TrainedModel
from mfl_jax.network import forward, gru_recurrence

PLATFORMS = ("cpu", "cuda", "tpu")
"""Platforms that the program is lowered for."""


def build_stablehlo(model: TrainedModel) -> bytes:
    """Lowers a model to a program for `jax.export.deserialize`, for any number of clips on CPUs, CUDA GPUs and TPUs.

    A CPU computes one clip after the other, so that activations stay in its cache; other platforms compute all clips at once.

    Returns:
      The serialised program: waveform float32 [shape=(B, clip_frames * hop_samples)], valid_samples int32 [shape=(B,)] ->
      a dictionary of `scene_probabilities` [shape=(B, S)] and `event_probabilities` [shape=(B, clip_frames, E)], float32.

    Raises:
      InputError: flatbuffers is missing.
    """
    require_package("flatbuffers")

    def compute_batch(waveform, valid_samples):
        valid = frame_mask(valid_samples, waveform.shape[1])
        batch = {
            "log_mel": log_mel_in_jax.compute_log_mel(jnp.where(valid, waveform, 0), model.mel),
            "valid_frames": -(-valid_samples // model.mel.hop_samples),
            "clip_mask": jnp.ones(waveform.shape[0], bool),
        }
        logits, _ = forward.apply_network(
            model.params, model.batch_stats, model.feature_stats, batch, graphdef=model.graphdef, train=False
        )
        heads = zip(("scene", "event"), (jax.nn.softmax, jax.nn.sigmoid), logits, strict=True)
        return {f"{task}_probabilities": activation(logit) for task, activation, logit in heads if logit is not None}

    def compute_clip_by_clip(waveform, valid_samples):
        def compute_clip(clip):
            return jax.tree.map(lambda a: a[0], compute_batch(*jax.tree.map(lambda a: a[None], clip)))

        return jax.lax.map(compute_clip, (waveform, valid_samples))

    @jax.jit
    def program(waveform, valid_samples):
        return jax.lax.platform_dependent(waveform, valid_samples, cpu=compute_clip_by_clip, default=compute_batch)

    (clips,) = export.symbolic_shape("clips")
    precision = model.config.matmul_precision
    with gru_recurrence.portable(), jax.default_matmul_precision(None if precision == "default" else precision):
        exported = export.export(program, platforms=PLATFORMS)(
            jax.ShapeDtypeStruct((clips, model.clip_frames * model.mel.hop_samples), jnp.float32),
            jax.ShapeDtypeStruct((clips,), jnp.int32),
        )
    return bytes(exported.serialize())


def run_stablehlo(program: bytes, waveform: np.ndarray, valid_samples: np.ndarray) -> dict[str, np.ndarray]:
    """Runs a program of `build_stablehlo` on this machine; arguments and result as described there.

    Raises:
      InputError: flatbuffers is missing.
    """
    require_package("flatbuffers")
    outputs = export.deserialize(bytearray(program)).call(waveform, valid_samples)
    return {name: np.asarray(output) for name, output in outputs.items()}
