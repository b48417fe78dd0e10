"""A trained network in ONNX operators. Needs the extra `onnx`.

The recurrent layer becomes ONNX's GRU, and batch norm is folded into the convolutions. The program computes in float32,
whatever the config says.
"""

import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from flax import nnx
from onnx import ModelProto, NodeProto, TensorProto, checker, helper, numpy_helper

from mfl_jax.data import mel_spectrogram
from mfl_jax.exporting import log_mel_in_jax
from mfl_jax.inference.trained_model import TrainedModel
from mfl_jax.network import joint_network

OPSET, IR_VERSION = 17, 8
"""Versions of the operators and of the file format, both of 2022: they have all operators used here and are widely supported."""


class GraphBuilder:
    """Collects the operators and constants of a graph; its methods return the name of their result."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []

    def constant(self, array, dtype=np.float32) -> str:
        """Appends a constant."""
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(array, dtype), name))
        return name

    def integers(self, *values: int) -> str:
        """Appends a constant int64 vector."""
        return self.constant(values, np.int64)

    def add(self, operator: str, *inputs, name: str | None = None, **attributes) -> str:
        """Appends an operator; inputs that are not names become float32 constants."""
        names = [value if isinstance(value, str) else self.constant(value) for value in inputs]
        name = name or f"{operator}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, names, [name], name=name, **attributes))
        return name

    def dense(self, x: str, layer, name: str | None = None) -> str:
        """Appends a dense layer."""
        return self.add("Add", self.add("MatMul", x, layer.kernel[...]), layer.bias[...], name=name)

    def leaky_relu(self, x: str, slope: float) -> str:
        """Appends a leaky ReLU."""
        return self.add("LeakyRelu", x, alpha=float(slope))

    def conv_block(self, x: str, mask: str, block, pool: Sequence[int] | None) -> tuple[str, str]:
        """Appends a convolution with its batch norm, activation and pooling.

        Maps [B, inputs, T, F] to [B, outputs, T // pool[0], F // pool[1]], or to [B, outputs, 1, 1] without a pool. The mask
        [B, 1, T, 1] is 1 in valid frames and 0 in padded ones; it is pooled too. Padded frames are 0 and take part in no maximum.
        """
        gain, shift = (np.asarray(a) for a in block.norm.from_sums(None, axis_name=None))
        kernel = np.asarray(block.conv.kernel[...]) * gain
        x = self.add("Conv", x, kernel.transpose(3, 2, 0, 1), shift, kernel_shape=[3, 3], pads=[1, 1, 1, 1])
        x = self.leaky_relu(x, block.slope)
        x = self.add("Where", self.add("Cast", mask, to=TensorProto.BOOL), x, np.finfo(np.float32).min)
        if pool is None:
            x, mask = self.add("GlobalMaxPool", x), self.add("GlobalMaxPool", mask)
        else:
            x = self.add("MaxPool", x, kernel_shape=pool, strides=pool)
            mask = self.add("MaxPool", mask, kernel_shape=[pool[0], 1], strides=[pool[0], 1])
        return self.add("Where", self.add("Cast", mask, to=TensorProto.BOOL), x, np.float32(0)), mask


def build_onnx(model: TrainedModel, description: dict) -> bytes:
    """Builds the ONNX program of a model, for any number of clips.

    Args:
      model: the model to export.
      description: as returned by `describe_model`; defines inputs and outputs, and is embedded in the file.
    """
    network = nnx.merge(model.graphdef, model.params, model.batch_stats, copy=True)
    graph = GraphBuilder()
    valid_samples = graph.add("Unsqueeze", "valid_samples", graph.integers(1))
    x = _add_log_mel(graph, model, valid_samples)
    x, mask = _add_normalisation(graph, model, x, valid_samples)
    if not network.mask_padding:
        mask = graph.add("Max", mask, np.float32(1))
    x, mask = (graph.add("Unsqueeze", array, graph.integers(1)) for array in (x, mask))  # [B, 1, T, M], [B, 1, T, 1]
    for block, bins in zip(("conv1", "conv2", "conv3"), joint_network.FREQUENCY_POOLS, strict=True):
        x, mask = graph.conv_block(x, mask, getattr(network.shared, block), [1, bins])
    if "scene" in network.tasks:
        _add_scene_head(graph, network.scene, x, mask)
    if "event" in network.tasks:
        _add_event_head(graph, network.event, x, mask, model.clip_frames)
    return _finish_graph(graph, description).SerializeToString()


def _add_log_mel(graph: GraphBuilder, model: TrainedModel, valid_samples: str) -> str:
    """Appends `log_mel_in_jax.compute_log_mel` of the valid samples: [B, samples] -> [B, T, M]."""
    mel, frames, samples = model.mel, model.clip_frames, model.clip_frames * model.mel.hop_samples
    valid = graph.add("Less", graph.constant(np.arange(samples)[None], np.int32), valid_samples)
    x = graph.add("Where", valid, "waveform", np.float32(0))
    before, after = log_mel_in_jax.compute_margins(mel)
    x = graph.add("Pad", x, graph.integers(0, before, 0, after))
    start = np.arange(frames)[:, None] * mel.hop_samples
    n = np.arange(1, mel.window_samples // 2 + 1)
    # Indices are sums of a column and a row; as constants they would take a million entries.
    left, right = (
        graph.add("Gather", x, graph.add("Add", graph.constant(start, np.int64), graph.integers(*offsets)), axis=1)
        for offsets in (n, mel.window_samples - n)
    )
    cosines, sines = log_mel_in_jax.build_fourier_bases(mel)
    real = graph.add("MatMul", graph.add("Add", right, left), cosines)
    imaginary = graph.add("MatMul", graph.add("Sub", right, left), sines)
    power = graph.add("Add", graph.add("Mul", real, real), graph.add("Mul", imaginary, imaginary))
    bands = graph.add("MatMul", power, mel_spectrogram.mel_filters(mel).T)
    return graph.add("Log", graph.add("Add", bands, np.float32(mel.floor)))


def _add_normalisation(graph: GraphBuilder, model: TrainedModel, x: str, valid_samples: str) -> tuple[str, str]:
    """Appends the normalisation of each mel bin; padded frames become 0. Returns the result and its mask [B, T, 1]."""
    x = graph.add("Div", graph.add("Sub", x, model.feature_stats["mean"]), model.feature_stats["std"])
    start = np.arange(model.clip_frames)[None] * model.mel.hop_samples
    valid = graph.add("Unsqueeze", graph.add("Less", graph.constant(start, np.int32), valid_samples), graph.integers(2))
    return graph.add("Where", valid, x, np.float32(0)), graph.add("Cast", valid, to=TensorProto.FLOAT)


def _add_scene_head(graph: GraphBuilder, head, shared: str, mask: str) -> None:
    """Appends the scene head: [B, C, T, M / 32] -> `scene_probabilities` [B, S]."""
    x, mask = graph.conv_block(shared, mask, head.conv1, [joint_network.SCENE_TIME_POOL, 1])
    x, _ = graph.conv_block(x, mask, head.conv2, None)
    x = graph.add("Flatten", x)
    x = graph.dense(graph.leaky_relu(graph.dense(x, head.dense), head.slope), head.output)
    graph.add("Softmax", x, name="scene_probabilities", axis=-1)


def _add_event_head(graph: GraphBuilder, head, shared: str, mask: str, frames: int) -> None:
    """Appends the event head: [B, C, T, M / 32] -> `event_probabilities` [B, T, E]."""
    gru = head.gru
    x = graph.add("Transpose", shared, perm=[2, 0, 3, 1])  # [T, B, M / 32, C]
    x = graph.add("Reshape", x, graph.integers(frames, -1, gru.input_kernel.shape[1]))
    parameters = (gru.input_kernel, gru.recurrent_kernel, gru.input_bias, gru.recurrent_bias)
    kernel, recurrent, bias, recurrent_bias = (_reorder_gates(np.asarray(array[...]), gru.units) for array in parameters)
    # The backward direction starts at a clip's last valid frame; programs that run ONNX refuse clips without any.
    valid_frames = graph.add("ReduceSum", mask, graph.integers(1, 2, 3), keepdims=0)
    valid_frames = graph.add("Cast", graph.add("Max", valid_frames, np.float32(1)), to=TensorProto.INT32)
    x = graph.add(
        "GRU", x, kernel.swapaxes(1, 2), recurrent.swapaxes(1, 2), np.concatenate([bias, recurrent_bias], axis=1), valid_frames,
        direction="bidirectional", hidden_size=gru.units, linear_before_reset=1,
    )  # [T, 2, B, units]  # fmt: skip
    x = graph.add("Reshape", graph.add("Transpose", x, perm=[2, 0, 1, 3]), graph.integers(-1, frames, 2 * gru.units))
    x = graph.dense(graph.leaky_relu(graph.dense(x, head.dense), head.slope), head.output)
    graph.add("Sigmoid", x, name="event_probabilities")


def _reorder_gates(parameter: np.ndarray, units: int) -> np.ndarray:
    """Reorders the gates along the last axis: ours are reset, update, new; ONNX has update, reset, new."""
    reset, update, new = (parameter[..., gate * units : (gate + 1) * units] for gate in range(3))
    return np.concatenate([update, reset, new], axis=-1)


def _finish_graph(graph: GraphBuilder, description: Mapping[str, Any]) -> ModelProto:
    """Wraps a graph with its inputs, outputs and metadata, and checks it."""
    dtypes = {"float32": TensorProto.FLOAT, "int32": TensorProto.INT32}
    inputs, outputs = (
        [helper.make_tensor_value_info(port["name"], dtypes[port["dtype"]], port["shape"]) for port in description[side]]
        for side in ("inputs", "outputs")
    )
    proto = helper.make_model(
        helper.make_graph(graph.nodes, "mfl_jax", inputs, outputs, graph.constants),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="mfl_jax",
        producer_version=importlib.metadata.version("mfl_jax"),
    )
    helper.set_model_props(proto, {"model.json": json.dumps(description)})
    checker.check_model(proto, full_check=True)
    return proto
