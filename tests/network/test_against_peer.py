"""Layers and the full network against PyTorch: values, gradients and running statistics."""

import jax
import numpy as np
import pytest
from flax import nnx

from mfl_jax.network.joint_network import ConvBlock, EventHead, SceneHead
from support.networks import (
    ODD,
    PAPER,
    SMALL,
    Normalise,
    all_valid,
    assert_close,
    functional,
    noise,
    peer_network,
    small_network,
    tensor,
)

pytestmark = pytest.mark.lightly_optimised


def channels_first(array):
    """[B, T, F, C] -> [B, C, T, F]; other shapes stay."""
    return np.transpose(array, (0, 3, 1, 2)) if np.ndim(array) == 4 else np.asarray(array)


def compare_layer(peer, build, reference, x, **options):
    """Compares values, running statistics and all gradients of a layer with PyTorch's.

    Args:
      peer: the module of the PyTorch network.
      build: builds our layer.
      reference: PyTorch's layer in float64; gets our parameters.
      x: input of our layer.
      options: keyword arguments of our layer's call.
    """
    apply, params, batch_stats = functional(build)
    train = options.get("train", False)
    peer.copy_into(reference, params, batch_stats or None).train(train)
    theirs = tensor(peer, channels_first(x), requires_grad=True)
    expected = reference(theirs)

    def ours(params, x):
        return apply(params, batch_stats, x, **options)

    output, gradients_of, new_stats = jax.vjp(ours, params, x, has_aux=True)
    weights = noise(*output.shape, seed=3)
    gradients, gradient_of_x = gradients_of(weights)
    (expected * tensor(peer, channels_first(weights))).sum().backward()

    assert_close(channels_first(output), expected.detach().numpy(), 1e-5, "value")
    assert_close(gradients, peer.read_arrays(reference, "gradients"), 3e-5, "gradient of ")
    assert_close(channels_first(gradient_of_x), theirs.grad.numpy(), 3e-5, "gradient of the input")
    if train:
        assert_close(new_stats, peer.read_arrays(reference, "batch_stats"), 1e-5, "statistics")
    else:
        assert_close(new_stats, batch_stats, 1e-6, "statistics")


@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize(
    ("shape", "pool"),
    [((2, 7, 20, 1), (1, 8)), ((3, 6, 5, 4), (1, 2)), ((2, 55, 3, 4), (25, 1)), ((2, 4, 3, 6), (4, 3)), ((2, 4, 1, 3), (1, 1))],
    ids=str,
)
def test_conv_block_equals_torch(peer, shape, pool, train):
    def block():
        return ConvBlock(shape[-1], 5, pool, slope=0.2, dropout=0.0, rngs=nnx.Rngs(params=0))

    reference = peer.ConvBlock(shape[-1], 5, pool, slope=0.2).double()
    x = noise(*shape)
    compare_layer(peer, block, reference, x, mask=all_valid(x), train=train, axis_name=None)


@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("size", [(100, 2), (60, 1)], ids=str)
def test_scene_head_equals_torch(peer, size, train):
    def head():
        return SceneHead(3, 6, 5, 4, slope=0.1, dropout=0.0, rngs=nnx.Rngs(params=0))

    reference = peer.SceneHead(3, 6, 5, 4, size, slope=0.1).double()
    x = noise(3, *size, 3)
    compare_layer(peer, head, reference, x, mask=all_valid(x), dropout_keys=[None, None], train=train, axis_name=None)


@pytest.mark.parametrize("bins", [1, 2])
def test_event_head_equals_torch(peer, bins):
    def head():
        return EventHead(3 * bins, 4, 5, slope=0.1, rngs=nnx.Rngs(params=0))

    x = noise(2, 9, bins, 3)
    compare_layer(peer, head, peer.EventHead(3, bins, 4, 5, slope=0.1).double(), x, mask=all_valid(x))


def test_batch_norm_follows_torch_over_several_batches(peer):
    """Training values and running statistics for each of several batches, then inference values."""
    apply, params, batch_stats = functional(lambda: Normalise(3))
    reference = peer.copy_into(peer.nn.BatchNorm2d(3).double(), params, batch_stats)
    for number, clips in enumerate((4, 2, 3, 4)):
        # Means and deviations differ between batches and channels.
        x = (noise(clips, 5, 2, 3, seed=number) + number) * np.float32([0.1, 1.0, 5.0])
        output, batch_stats = apply(params, batch_stats, x, all_valid(x), train=True, axis_name=None)
        assert_close(channels_first(output), reference(tensor(peer, channels_first(x))).detach().numpy(), 1e-5, "value")
        assert_close(batch_stats, peer.read_arrays(reference, "batch_stats"), 1e-5, "statistics")
    output, same = apply(params, batch_stats, x, all_valid(x), train=False, axis_name=None)
    assert_close(same, batch_stats, 1e-6, "statistics")
    assert_close(channels_first(output), reference.eval()(tensor(peer, channels_first(x))).detach().numpy(), 1e-5, "value")


@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
def test_batch_norm_gradients_equal_torch(peer, train):
    x = (noise(4, 5, 2, 3) + 1) * np.float32([0.1, 1.0, 5.0])
    compare_layer(peer, lambda: Normalise(3), peer.nn.BatchNorm2d(3).double(), x, mask=all_valid(x), train=train, axis_name=None)


@pytest.mark.parametrize("size", [SMALL, ODD], ids=["small", "odd"])
def test_network_equals_torch(peer, size):
    """Two training batches with the running statistics after each, then one inference batch."""
    apply, params, batch_stats = functional(small_network(size))
    reference = peer_network(peer, size, params, batch_stats)
    for number, train in enumerate((True, True, False)):
        x = noise(3, size["frames"], size["mel_bins"], seed=number)
        with peer.torch.no_grad():
            expected = reference.train(train)(tensor(peer, x))
        logits, batch_stats = apply(params, batch_stats, x, train=train)
        assert_close(logits, tuple(part.numpy() for part in expected), 1e-5, f"logits of batch {number}")
        assert_close(batch_stats, peer.read_arrays(reference, "batch_stats"), 1e-5, f"statistics after batch {number}")


def test_full_size_network_equals_torch(peer):
    apply, params, batch_stats = functional(small_network(PAPER))
    reference = peer_network(peer, PAPER, params, batch_stats)
    x = noise(2, 500, 64)
    for train in (True, False):
        with peer.torch.no_grad():
            expected = reference.train(train)(tensor(peer, x))
        logits, batch_stats = apply(params, batch_stats, x, train=train)
        assert_close(logits, tuple(part.numpy() for part in expected), 1e-4, "logits")
        assert_close(batch_stats, peer.read_arrays(reference, "batch_stats"), 1e-4, "statistics")
