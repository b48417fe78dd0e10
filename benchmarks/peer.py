"""The network and the loss in PyTorch, as a reference with another framework, layout and order of operations.

Layouts are PyTorch's: images are [B, C, T, F], and the GRU's input vectors are channel-major. `copy_into` and `read_arrays`
convert from and to the nested dictionaries of `nnx.to_pure_dict`.
"""

import numpy as np
import torch
from torch import nn

# The tests are small, and threads that wait for each other on busy cores are many times slower.
torch.set_num_threads(1)


class ConvBlock(nn.Module):
    """3x3 convolution, batch norm, leaky ReLU and max pooling, in the order of Table II."""

    def __init__(self, inputs, outputs, pool, slope=0.01):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(outputs)
        self.activation = nn.LeakyReLU(slope)
        self.pool = nn.MaxPool2d(pool)

    def forward(self, x):
        return self.pool(self.activation(self.norm(self.conv(x))))


class SceneHead(nn.Module):
    """[B, C, T, F] -> [B, scenes]; `size` is the input's (frames, bins), which the second block pools completely."""

    def __init__(self, inputs, channels, hidden, scenes, size, slope=0.01):
        super().__init__()
        self.conv1 = ConvBlock(inputs, channels, (25, 1), slope)
        self.conv2 = ConvBlock(channels, channels, (size[0] // 25, size[1]), slope)
        self.dense = nn.Linear(channels, hidden)
        self.activation = nn.LeakyReLU(slope)
        self.output = nn.Linear(hidden, scenes)

    def forward(self, x):
        x = self.conv2(self.conv1(x)).flatten(1)
        return self.output(self.activation(self.dense(x)))


class EventHead(nn.Module):
    """[B, C, T, F] -> [B, T, events]."""

    def __init__(self, channels, bins, hidden, events, slope=0.01):
        super().__init__()
        self.bins = bins
        self.gru = nn.GRU(channels * bins, hidden, bidirectional=True, batch_first=True)
        self.dense = nn.Linear(2 * hidden, hidden)
        self.activation = nn.LeakyReLU(slope)
        self.output = nn.Linear(hidden, events)

    def forward(self, x):
        x = x.transpose(1, 2).flatten(2)  # [B, T, C * F]
        x, _ = self.gru(x)
        return self.output(self.activation(self.dense(x)))


class SharedStack(nn.Module):
    """[B, 1, T, M] -> [B, C, T, M // 32]."""

    def __init__(self, channels, slope=0.01):
        super().__init__()
        self.conv1 = ConvBlock(1, channels, (1, 8), slope)
        self.conv2 = ConvBlock(channels, channels, (1, 2), slope)
        self.conv3 = ConvBlock(channels, channels, (1, 2), slope)

    def forward(self, x):
        return self.conv3(self.conv2(self.conv1(x)))


class Network(nn.Module):
    """[B, T, M] -> scene logits [B, S] and event logits [B, T, E]."""

    def __init__(self, *, frames, mel_bins, scenes, events, channels, hidden=32, slope=0.01):
        super().__init__()
        bins = mel_bins // 8 // 2 // 2
        self.shared = SharedStack(channels, slope)
        self.scene = SceneHead(channels, 2 * channels, hidden, scenes, (frames, bins), slope)
        self.event = EventHead(channels, bins, hidden, events, slope)

    def forward(self, log_mel):
        x = self.shared(log_mel[:, None])
        return self.scene(x), self.event(x)


def multi_focal_loss(scene_logits, event_logits, scene, events, valid_frames, *, alpha, beta, gamma, zeta, eta, reduction):
    """Eqs. 3-6 as printed, from probabilities; the gradient is finite only in float64 and for moderate logits."""
    y = torch.softmax(scene_logits, -1)
    z = torch.nn.functional.one_hot(scene, y.shape[-1])
    scene_loss = -((1 - y) ** eta * z * torch.log(y)).sum()
    y, z = torch.sigmoid(event_logits), events.to(event_logits.dtype)
    cells = -((1 - y) ** gamma * z * torch.log(y) + y**zeta * (1 - z) * torch.log(1 - y))
    event_loss = sum(clip[:frames].sum() for clip, frames in zip(cells, valid_frames, strict=True))
    clips = len(scene)
    counted = int(sum(valid_frames)) * events.shape[-1]
    return alpha * scene_loss / clips + beta * event_loss / {"mean": counted, "sum": clips}[reduction]


def _entries(module, path=(), bins=1):
    """Yields (path, tensors, to_ours, to_theirs) for each array of a module.

    `path` is the array's path in our dictionaries; `tensors` are PyTorch's. `to_ours` converts a list with one array per tensor
    to our array; `to_theirs` converts our array back. `bins` is the number of bins in the inputs of a GRU.
    """

    def entry(name, tensor, axes=None):
        if axes is None:
            return (*path, name), [tensor], lambda arrays: arrays[0], lambda array: [array]
        return (
            (*path, name),
            [tensor],
            lambda arrays: arrays[0].transpose(axes),
            lambda array: [array.transpose(np.argsort(axes))],
        )

    if isinstance(module, nn.Conv2d):
        yield entry("kernel", module.weight, (2, 3, 1, 0))  # [out, in, T, F] -> [T, F, in, out]
    elif isinstance(module, nn.BatchNorm2d):
        yield entry("scale", module.weight)
        yield entry("bias", module.bias)
        yield entry("mean", module.running_mean)
        yield entry("var", module.running_var)
    elif isinstance(module, nn.Linear):
        yield entry("kernel", module.weight, (1, 0))
        yield entry("bias", module.bias)
    elif isinstance(module, nn.GRU):
        # Both order the gates reset, update (PyTorch: z), new; in both, update is the share of the old state.
        for name, theirs in (
            ("input_kernel", "weight_ih_l0"),
            ("recurrent_kernel", "weight_hh_l0"),
            ("input_bias", "bias_ih_l0"),
            ("recurrent_bias", "bias_hh_l0"),
        ):
            directions = [getattr(module, theirs), getattr(module, theirs + "_reverse")]
            to_ours, to_theirs = (_bins_first, _channels_first) if name == "input_kernel" else (_transposed, _transposed)
            yield (
                (*path, name),
                directions,
                lambda arrays, to_ours=to_ours: np.stack([to_ours(array, bins) for array in arrays]),
                lambda array, to_theirs=to_theirs: [to_theirs(direction, bins) for direction in array],
            )
    else:
        for name, child in module.named_children():
            yield from _entries(child, (*path, name), getattr(module, "bins", bins))


def _bins_first(weight, bins):
    """PyTorch's [gates, channels * bins] -> our [bins * channels, gates]."""
    return weight.reshape(len(weight), -1, bins).transpose(2, 1, 0).reshape(-1, len(weight))


def _channels_first(kernel, bins):
    """Our [bins * channels, gates] -> PyTorch's [gates, channels * bins]."""
    gates = kernel.shape[1]
    return kernel.reshape(bins, -1, gates).transpose(2, 1, 0).reshape(gates, -1)


def _transposed(array, bins):
    return array.T


def _leaf(tree, path):
    for key in path:
        tree = tree[key]
    return tree


def _is_statistic(path):
    return path[-1] in ("mean", "var")


def copy_into(module, params, batch_stats=None):
    """Fills a module of this file, or one of its layers, with our arrays.

    Args:
      module: the module to fill.
      params: nested dictionary of arrays, as from `nnx.to_pure_dict`.
      batch_stats: running statistics in the same form; None leaves the module's unchanged.

    Returns:
      The module.

    Raises:
      ValueError: an array has another shape, or the number of parameters differs.
    """
    count = 0
    with torch.no_grad():
        for path, tensors, _, to_theirs in _entries(module):
            if _is_statistic(path) and batch_stats is None:
                continue
            array = np.asarray(_leaf(batch_stats if _is_statistic(path) else params, path))
            count += not _is_statistic(path)
            for tensor, value in zip(tensors, to_theirs(array), strict=True):
                if tensor.shape != value.shape:
                    raise ValueError(f"{path}: shape {value.shape} instead of {tuple(tensor.shape)}")
                tensor.copy_(torch.tensor(value))
    if count != _number_of_leaves(params):
        raise ValueError(f"the module has {count} parameters, params has {_number_of_leaves(params)}")
    return module


def _number_of_leaves(tree):
    return sum(map(_number_of_leaves, tree.values())) if isinstance(tree, dict) else 1


def read_arrays(module, kind):
    """Returns a module's arrays as nested dictionaries; `kind` is `params`, `gradients` or `batch_stats`."""
    tree = {}
    for path, tensors, to_ours, _ in _entries(module):
        if _is_statistic(path) != (kind == "batch_stats"):
            continue
        arrays = [(tensor.grad if kind == "gradients" else tensor.detach()).cpu().numpy().copy() for tensor in tensors]
        branch = tree
        for key in path[:-1]:
            branch = branch.setdefault(key, {})
        branch[path[-1]] = to_ours(arrays)
    return tree
