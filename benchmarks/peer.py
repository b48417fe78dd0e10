"""The network and the loss once more in PyTorch, to test ours against: another framework, layout and order of operations.

Arrays stand as PyTorch has them: images are [B, C, T, F], and a frame's vector for the GRU runs through the channels first.
`copy_into` and `arrays_of` translate between that and the nested dictionaries of `nnx.to_pure_dict`.
"""

import numpy as np
import torch
from torch import nn

# The work is small, and threads that wait for one another on busy cores take many times as long.
torch.set_num_threads(1)


class ConvBlock(nn.Module):
    """3x3 convolution, batch norm, leaky ReLU and max pooling, in the order of the paper."""

    def __init__(self, inputs, outputs, pool, slope=0.01):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(outputs)
        self.activation = nn.LeakyReLU(slope)
        self.pool = nn.MaxPool2d(pool)

    def forward(self, x):
        return self.pool(self.activation(self.norm(self.conv(x))))


class SceneHead(nn.Module):
    """[B, C, T, F] -> [B, scenes]; `size` (frames, bins) of the input, to pool all of it."""

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
    """[B, T, M] -> the logits of scenes [B, S] and of events [B, T, E]."""

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
    """Eqs. 3-6 as printed, from probabilities; only float64 and moderate logits keep their gradient finite."""
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
    """Yields (path in our dictionaries, tensors of PyTorch, to ours, to theirs) of all that a module holds, layer by layer.

    `to ours` takes the tensors' arrays and makes one array of them, `to theirs` the other way round. `bins` is the number of
    bins among the inputs of a GRU.
    """

    def one(name, tensor, axes=None):
        if axes is None:
            return (*path, name), [tensor], lambda arrays: arrays[0], lambda array: [array]
        return (
            (*path, name),
            [tensor],
            lambda arrays: arrays[0].transpose(axes),
            lambda array: [array.transpose(np.argsort(axes))],
        )

    if isinstance(module, nn.Conv2d):
        yield one("kernel", module.weight, (2, 3, 1, 0))  # [out, in, T, F] -> [T, F, in, out]
    elif isinstance(module, nn.BatchNorm2d):
        yield one("scale", module.weight)
        yield one("bias", module.bias)
        yield one("mean", module.running_mean)
        yield one("var", module.running_var)
    elif isinstance(module, nn.Linear):
        yield one("kernel", module.weight, (1, 0))
        yield one("bias", module.bias)
    elif isinstance(module, nn.GRU):
        # Both have the gates in the order reset, update (PyTorch: z), new, and both mean by update the share that is kept.
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
    """Fills a module of this file (or one layer) with our parameters and running statistics; returns the module.

    Args:
      module: to fill.
      params, batch_stats: nested dictionaries of arrays as `nnx.to_pure_dict` makes them; running statistics are left as they
        are without `batch_stats`.
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
                    raise ValueError(f"{path}: {value.shape} for {tuple(tensor.shape)}")
                tensor.copy_(torch.tensor(value))
    if count != _number_of_leaves(params):
        raise ValueError(f"{count} parameters for {_number_of_leaves(params)}")
    return module


def _number_of_leaves(tree):
    return sum(map(_number_of_leaves, tree.values())) if isinstance(tree, dict) else 1


def arrays_of(module, kind):
    """Returns a module's `params`, `gradients` or `batch_stats` (its running statistics) as our nested dictionaries."""
    tree = {}
    for path, tensors, to_ours, _ in _entries(module):
        if _is_statistic(path) != (kind == "batch_stats"):
            continue
        arrays = [(tensor.grad if kind == "gradients" else tensor.detach()).numpy().copy() for tensor in tensors]
        branch = tree
        for key in path[:-1]:
            branch = branch.setdefault(key, {})
        branch[path[-1]] = to_ours(arrays)
    return tree
