"""A trained network in ONNX's own operators. Needs the extra `onnx`."""

import importlib.metadata
import json

import numpy as np
from flax import nnx
from onnx import TensorProto, checker, helper, numpy_helper

from mfl_jax.data import mel_spectrogram
from mfl_jax.exporting import log_mel_in_jax
from mfl_jax.network import joint_network

OPSET, IR_VERSION = 17, 8
"""Versions of the ONNX operators and of the file, both of 2022: recent enough for all that is used, old enough to be read."""


def program(model, about: dict) -> bytes:
    """The program of a model in ONNX, for any number of clips; inputs and outputs as `export.describe` has them.

    The network is put together from ONNX's own operators, the recurrent layer as its GRU and batch norm as part of the
    convolutions. It computes in float32, whatever the config says.

    Args:
      model: a `TrainedModel`. about: of `export.describe`, which also stands in the file.
    """
    network = nnx.merge(model.graphdef, model.params, model.batch_stats, copy=True)
    mel, frames, samples = model.mel, model.clip_frames, model.clip_frames * model.mel.hop_samples
    nodes, constants, outputs = [], [], []

    def constant(array, dtype=np.float32):
        constants.append(numpy_helper.from_array(np.ascontiguousarray(array, dtype), f"constant_{len(constants)}"))
        return constants[-1].name

    def add(operator, *inputs, name=None, **attributes):
        """Appends an operator; what is no name among its inputs is a constant. Returns the name of its output."""
        inputs = [given if isinstance(given, str) else constant(given) for given in inputs]
        name = name or f"{operator}_{len(nodes)}"
        nodes.append(helper.make_node(operator, inputs, [name], name=name, **attributes))
        return name

    def integers(*values):
        return constant(values, np.int64)

    def dense(x, layer, name=None):
        return add("Add", add("MatMul", x, layer.kernel[...]), layer.bias[...], name=name)

    def leaky_relu(x, slope):
        return add("LeakyRelu", x, alpha=float(slope))

    def conv_block(x, block, pool):
        """[B, inputs, T, F] -> [B, outputs, T // pool[0], F // pool[1]], or [B, outputs, 1, 1] without a pool."""
        gain, shift = (np.asarray(a) for a in block.norm.from_sums(None, axis_name=None))
        kernel = np.asarray(block.conv.kernel[...]) * gain
        x = add("Conv", x, kernel.transpose(3, 2, 0, 1), shift, kernel_shape=[3, 3], pads=[1, 1, 1, 1])
        x = leaky_relu(x, block.slope)
        return add("MaxPool", x, kernel_shape=pool, strides=pool) if pool else add("GlobalMaxPool", x)

    # Spectrogram: see `waveforms.log_mel`.
    valid_samples = add("Unsqueeze", "valid_samples", integers(1))
    heard = add("Less", constant(np.arange(samples)[None], np.int32), valid_samples)
    x = add("Where", heard, "waveform", np.float32(0))
    before, after = log_mel_in_jax.margins(mel)
    x = add("Pad", x, integers(0, before, 0, after))
    start = np.arange(frames)[:, None] * mel.hop_samples
    n = np.arange(1, mel.window_samples // 2 + 1)
    # Indices as sums of a column and a row: the file would have to hold a million of them otherwise.
    left = add("Gather", x, add("Add", constant(start, np.int64), integers(*n)), axis=1)
    right = add("Gather", x, add("Add", constant(start, np.int64), integers(*(mel.window_samples - n))), axis=1)
    cosines, sines = log_mel_in_jax.fourier_bases(mel)
    real, imaginary = add("MatMul", add("Add", right, left), cosines), add("MatMul", add("Sub", right, left), sines)
    power = add("Add", add("Mul", real, real), add("Mul", imaginary, imaginary))
    x = add("Log", add("Add", add("MatMul", power, mel_spectrogram.mel_filters(mel).T), np.float32(mel.floor)))
    # Normalisation: padded frames become 0, the mean.
    x = add("Div", add("Sub", x, model.feature_stats["mean"]), model.feature_stats["std"])
    valid_frames = add("Less", constant(start.T, np.int32), valid_samples)
    x = add("Where", add("Unsqueeze", valid_frames, integers(2)), x, np.float32(0))  # [B, T, M]
    # Shared stack.
    x = add("Unsqueeze", x, integers(1))  # [B, 1, T, M]
    for block, bins in zip(("conv1", "conv2", "conv3"), joint_network.FREQUENCY_POOLS, strict=True):
        x = conv_block(x, getattr(network.shared, block), [1, bins])
    shared = x  # [B, C, T, M / 32]
    if "scene" in network.tasks:
        x = conv_block(shared, network.scene.conv1, [joint_network.SCENE_TIME_POOL, 1])
        x = add("Flatten", conv_block(x, network.scene.conv2, None))
        x = dense(leaky_relu(dense(x, network.scene.dense), network.scene.slope), network.scene.output)
        outputs.append(add("Softmax", x, name="scene_probabilities", axis=-1))
    if "event" in network.tasks:
        gru = network.event.gru
        x = add("Transpose", shared, perm=[2, 0, 3, 1])  # [T, B, M / 32, C]
        x = add("Reshape", x, integers(frames, -1, gru.input_kernel.shape[1]))
        parameters = (gru.input_kernel, gru.recurrent_kernel, gru.input_bias, gru.recurrent_bias)
        kernel, recurrent, bias, recurrent_bias = (_gates(np.asarray(parameter[...]), gru.units) for parameter in parameters)
        x = add(
            "GRU", x, kernel.swapaxes(1, 2), recurrent.swapaxes(1, 2), np.concatenate([bias, recurrent_bias], axis=1),
            direction="bidirectional", hidden_size=gru.units, linear_before_reset=1,
        )  # [T, 2, B, units]  # fmt: skip
        x = add("Reshape", add("Transpose", x, perm=[2, 0, 1, 3]), integers(-1, frames, 2 * gru.units))
        x = dense(leaky_relu(dense(x, network.event.dense), network.event.slope), network.event.output)
        outputs.append(add("Sigmoid", x, name="event_probabilities"))
    dtypes = {"float32": TensorProto.FLOAT, "int32": TensorProto.INT32}
    inputs, outputs = (
        [helper.make_tensor_value_info(one["name"], dtypes[one["dtype"]], one["shape"]) for one in about[kind]]
        for kind in ("inputs", "outputs")
    )
    made = helper.make_model(
        helper.make_graph(nodes, "mfl_jax", inputs, outputs, constants),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="mfl_jax",
        producer_version=importlib.metadata.version("mfl_jax"),
    )
    helper.set_model_props(made, {"model.json": json.dumps(about)})
    checker.check_model(made, full_check=True)
    return made.SerializeToString()


def _gates(parameter: np.ndarray, units: int) -> np.ndarray:
    """Reorders the gates along the last axis: ours stand as reset, update, new; ONNX has update, reset, new."""
    reset, update, new = (parameter[..., gate * units : (gate + 1) * units] for gate in range(3))
    return np.concatenate([update, reset, new], axis=-1)
