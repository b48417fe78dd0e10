"""The network: its size, its refusals, and every layer, the whole and its training against the same in PyTorch."""

import functools
import operator

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from mfl_jax import models, step
from mfl_jax.models import BatchNorm, ConvBlock, EventHead, JointNetwork, SceneHead, max_pool

PAPER = {"frames": 500, "mel_bins": 64, "scenes": 4, "events": 25}
SMALL = {"frames": 100, "mel_bins": 64, "scenes": 4, "events": 5, "channels": 8, "hidden": 6}
# Bins and frames that the pools do not divide, one scene more than channels in a block, another slope.
ODD = {"frames": 60, "mel_bins": 40, "scenes": 7, "events": 3, "channels": 5, "hidden": 4, "slope": 0.2}


@pytest.fixture(scope="module")
def peer():
    pytest.importorskip("torch")
    import peer

    return peer


def tensor(peer, array, **options):
    return peer.torch.tensor(np.asarray(array), dtype=peer.torch.float64, **options)


def split(network):
    graphdef, params, batch_stats = nnx.split(network, nnx.Param, nnx.BatchStat)
    return graphdef, nnx.to_pure_dict(params), nnx.to_pure_dict(batch_stats)


def random_arrays(tree, rng):
    """Fills shapes at random: the zeros and ones of a fresh network would hide exchanged biases, scales and statistics."""

    def fill(path, leaf):
        if leaf.ndim > 1:
            return jnp.asarray(rng.standard_normal(leaf.shape) / np.sqrt(np.prod(leaf.shape[:-1])), jnp.float32)
        # Batch norm's scale may be negative, and the largest value before it is then the smallest after it.
        sign = np.resize([1, -1], leaf.shape) if "scale" in jax.tree_util.keystr(path) else 1
        return jnp.asarray(sign * rng.uniform(0.5, 1.5, leaf.shape), jnp.float32)

    return jax.tree_util.tree_map_with_path(fill, tree)


def functional(build, seed=0):
    """Returns the module that `build` builds as `(params, batch_stats, *args) -> (result, new batch_stats)`, and such arrays."""
    # The shapes alone: initial values take longer to compile than most tests.
    graphdef, params, batch_stats = split(nnx.eval_shape(build))
    rng = np.random.default_rng(seed)

    @functools.partial(jax.jit, static_argnames=("train", "pool", "axis_name"))
    def apply(params, batch_stats, *args, **options):
        module = nnx.merge(graphdef, params, batch_stats, copy=True)
        result = module(*args, **options)
        return result, nnx.to_pure_dict(nnx.state(module, nnx.BatchStat))

    return apply, random_arrays(params, rng), random_arrays(batch_stats, rng)


def small_network(size, **options):
    return lambda: JointNetwork(**size, **options, rngs=nnx.Rngs(params=0))


def noise(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def everyone(clips):
    return np.ones(clips, bool)


def assert_close(ours, expected, tolerance, what=""):
    """Equal within a share of the largest value, leaf by leaf."""
    assert jax.tree.structure(ours) == jax.tree.structure(expected), what
    for (path, leaf), other in zip(jax.tree_util.tree_leaves_with_path(ours), jax.tree.leaves(expected), strict=True):
        other = np.asarray(other)
        assert leaf.shape == other.shape, f"{what}{jax.tree_util.keystr(path)}"
        atol = tolerance * np.abs(other).max()
        np.testing.assert_allclose(leaf, other, rtol=0, atol=atol, err_msg=f"{what}{jax.tree_util.keystr(path)}")


# Size, shapes and refusals


def abstract(tasks=models.TASKS, **size):
    """The network without its arrays: (parameters, statistics, result for three clips) as shapes."""
    size = {**PAPER, **size}
    network = nnx.eval_shape(lambda: JointNetwork(**size, tasks=tasks, rngs=nnx.Rngs(params=0)))
    graphdef, params, batch_stats = split(network)
    log_mel = jax.ShapeDtypeStruct((3, size["frames"], size["mel_bins"]), jnp.float32)
    return params, batch_stats, jax.eval_shape(lambda p, s, x: nnx.merge(graphdef, p, s)(x), params, batch_stats, log_mel)


def names(params):
    return {"/".join(key.key for key in path) for path, _ in jax.tree_util.tree_leaves_with_path(params)}


def count(params):
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def test_joint_network_has_the_papers_number_of_parameters():
    params, batch_stats, _ = abstract()
    assert count(params) == 1_249_533
    assert count(batch_stats) == 2 * (3 * 128 + 2 * 256)


def test_torch_network_has_as_many(peer):
    network = peer.Network(**PAPER, channels=128)
    assert sum(parameter.numel() for parameter in network.parameters()) == 1_249_533


@pytest.mark.parametrize(
    "size",
    [{}, {"frames": 25}, {"frames": 130}, {"mel_bins": 32}, {"mel_bins": 40}, {"mel_bins": 128}, {"scenes": 1}, {"scenes": 15},
     {"events": 1}, {"events": 3}],
    ids=str,
)  # fmt: skip
def test_logits_have_a_row_a_clip_and_a_row_a_frame(size):
    scene_logits, event_logits = abstract(**size)[2]
    size = {**PAPER, **size}
    assert (scene_logits.shape, scene_logits.dtype) == ((3, size["scenes"]), jnp.float32)
    assert (event_logits.shape, event_logits.dtype) == ((3, size["frames"], size["events"]), jnp.float32)


def test_more_mel_bins_widen_only_the_gru():
    wide, narrow = abstract(mel_bins=128)[0], abstract(mel_bins=40)[0]
    assert wide["event"]["gru"]["input_kernel"].shape == (2, 4 * 128, 96)
    assert narrow["event"]["gru"]["input_kernel"].shape == (2, 128, 96)
    assert count(wide) - count(narrow) == 2 * 3 * 128 * 96


@pytest.mark.parametrize(("task", "other"), [("scene", "event"), ("event", "scene")])
def test_single_task_network_has_nothing_of_the_other_head(task, other):
    joint, _, _ = abstract()
    params, batch_stats, logits = abstract(tasks=(task,))
    assert set(params) == {"shared", task}
    assert names(params) == {name for name in names(joint) if not name.startswith(other)}
    assert other not in batch_stats
    assert logits[models.TASKS.index(other)] is None
    assert logits[models.TASKS.index(task)].shape[0] == 3


@pytest.mark.parametrize("task", models.TASKS)
def test_single_task_network_needs_no_class_of_the_other_task(task):
    size = {"scene": {"events": 0}, "event": {"scenes": 0, "frames": 24}}[task]
    _, _, logits = abstract(tasks=(task,), **size)
    assert logits[models.TASKS.index(task)].shape[0] == 3


def test_single_task_networks_compute_what_the_joint_one_computes():
    joint, params, batch_stats = functional(small_network(SMALL))
    log_mel = noise(2, 100, 64)
    (scene_logits, event_logits), _ = joint(params, batch_stats, log_mel)
    scene, _, _ = functional(small_network(SMALL, tasks=("scene",)))
    event, _, _ = functional(small_network(SMALL, tasks=("event",)))
    of_scene = {key: params[key] for key in ("shared", "scene")}
    of_event = {key: params[key] for key in ("shared", "event")}
    assert_close(scene(of_scene, batch_stats, log_mel)[0][0], scene_logits, 1e-6)
    assert_close(event(of_event, {"shared": batch_stats["shared"]}, log_mel)[0][1], event_logits, 1e-6)


@pytest.mark.parametrize("tasks", models.TASKS)
def test_convolutions_have_no_bias(tasks):
    # Its gradient is zero but for rounding, which RAdam would turn into full steps.
    found = {name for name in names(abstract(tasks=(tasks,))[0]) if "/conv/" in name}
    assert found
    assert {name.split("/")[-1] for name in found} == {"kernel"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tasks": ()}, "tasks"),
        ({"tasks": ("scene", "speaker")}, "speaker"),
        ({"scenes": 0}, "0 scenes"),
        ({"events": 0}, "0 events"),
        ({"tasks": ("event",), "events": 0}, "0 events"),
        ({"mel_bins": 31}, "31 mel bins"),
        ({"frames": 24}, "24 frames"),
        ({"tasks": ("scene",), "frames": 24}, "24 frames"),
    ],
    ids=str,
)
def test_refuses(change, message):
    with pytest.raises(ValueError, match=message):
        JointNetwork(**{**PAPER, "channels": 2, **change}, rngs=nnx.Rngs(params=0))


# Layers


@pytest.mark.parametrize(
    ("shape", "window"),
    [((2, 6, 8, 3), (1, 8)), ((2, 50, 3, 2), (25, 1)), ((2, 7, 5, 3), (2, 2)), ((1, 59, 9, 2), (25, 4)), ((2, 5, 4, 3), (5, 4))],
    ids=str,
)
def test_max_pool_equals_that_of_torch(peer, shape, window):
    x = noise(*shape)
    reference = tensor(peer, x.transpose(0, 3, 1, 2), requires_grad=True)
    expected = peer.torch.nn.functional.max_pool2d(reference, window)
    pooled, gradient_of = jax.vjp(lambda x: max_pool(x, *window), x)
    assert pooled.shape == (shape[0], shape[1] // window[0], shape[2] // window[1], shape[3])
    np.testing.assert_array_equal(pooled, expected.detach().numpy().transpose(0, 2, 3, 1).astype(np.float32))

    weights = noise(*pooled.shape, seed=1)
    (expected * tensor(peer, weights.transpose(0, 3, 1, 2))).sum().backward()
    # A remainder at the end is dropped: its gradient is zero.
    np.testing.assert_array_equal(gradient_of(weights)[0], reference.grad.numpy().transpose(0, 2, 3, 1).astype(np.float32))


def test_max_pool_shares_its_gradient_as_a_maximum_of_jax_does():
    """With many equal values, in windows whose remainder is dropped."""
    x = np.round(noise(2, 7, 9, 3)).astype(np.float32)

    def plain(x):
        return x[:, :6, :8].reshape(2, 3, 2, 2, 4, 3).max(axis=(2, 4))

    (got, gradient_of), (expected, gradient_of_plain) = (jax.vjp(f, x) for f in (lambda x: max_pool(x, 2, 4), plain))
    weights = noise(*expected.shape, seed=1)
    np.testing.assert_array_equal(got, expected)
    np.testing.assert_allclose(gradient_of(weights)[0], gradient_of_plain(weights)[0], rtol=1e-6)


class Normalise(BatchNorm):
    """Batch norm as a layer of its own."""

    def __call__(self, x, *args, **options):
        gain, shift = super().__call__(x, *args, **options)
        return x * gain + shift


def channels_first(array):
    """[B, T, F, C] -> [B, C, T, F]; other shapes stay."""
    return np.transpose(array, (0, 3, 1, 2)) if np.ndim(array) == 4 else np.asarray(array)


def compare_layer(peer, build, reference, x, **options):
    """Holds values, running statistics and all gradients of a layer against those of PyTorch's.

    Args:
      build: builds our layer. reference: PyTorch's in float64, which is filled with our parameters.
      x: our input.
      options: of our layer's call.
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
    assert_close(gradients, peer.arrays_of(reference, "gradients"), 3e-5, "gradient of ")
    assert_close(channels_first(gradient_of_x), theirs.grad.numpy(), 3e-5, "gradient of the input")
    if train:
        assert_close(new_stats, peer.arrays_of(reference, "batch_stats"), 1e-5, "statistics")
    else:
        jax.tree.map(np.testing.assert_array_equal, new_stats, batch_stats)


@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize(
    ("shape", "pool"),
    [((2, 7, 20, 1), (1, 8)), ((3, 6, 5, 4), (1, 2)), ((2, 55, 3, 4), (25, 1)), ((2, 4, 3, 6), (4, 3)), ((2, 4, 1, 3), (1, 1))],
    ids=str,
)
def test_conv_block_equals_that_of_torch(peer, shape, pool, train):
    def block():
        return ConvBlock(shape[-1], 5, slope=0.2, dropout=0.0, rngs=nnx.Rngs(params=0))

    reference = peer.ConvBlock(shape[-1], 5, pool, slope=0.2).double()
    x, mask = noise(*shape), everyone(shape[0])
    compare_layer(peer, block, reference, x, clip_mask=mask, pool=pool, train=train, axis_name=None)


@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("size", [(100, 2), (60, 1)], ids=str)
def test_scene_head_equals_that_of_torch(peer, size, train):
    def head():
        return SceneHead(3, 6, 5, 4, slope=0.1, dropout=0.0, rngs=nnx.Rngs(params=0))

    reference = peer.SceneHead(3, 6, 5, 4, size, slope=0.1).double()
    x, mask = noise(3, *size, 3), everyone(3)
    compare_layer(peer, head, reference, x, clip_mask=mask, dropout_keys=[None, None], train=train, axis_name=None)


@pytest.mark.parametrize("bins", [1, 2])
def test_event_head_equals_that_of_torch(peer, bins):
    def head():
        return EventHead(3 * bins, 4, 5, slope=0.1, rngs=nnx.Rngs(params=0))

    compare_layer(peer, head, peer.EventHead(3, bins, 4, 5, slope=0.1).double(), noise(2, 9, bins, 3))


# Batch norm


def test_batch_norm_follows_that_of_torch_over_several_batches(peer):
    """Values of each batch in training, the running statistics after it, and at last the values outside training."""
    apply, params, batch_stats = functional(lambda: Normalise(3))
    reference = peer.copy_into(peer.nn.BatchNorm2d(3).double(), params, batch_stats)
    for number, clips in enumerate((4, 2, 3, 4)):
        # Means and deviations differ between batches and channels.
        x = (noise(clips, 5, 2, 3, seed=number) + number) * np.float32([0.1, 1.0, 5.0])
        output, batch_stats = apply(params, batch_stats, x, everyone(clips), train=True, axis_name=None)
        assert_close(channels_first(output), reference(tensor(peer, channels_first(x))).detach().numpy(), 1e-5, "value")
        assert_close(batch_stats, peer.arrays_of(reference, "batch_stats"), 1e-5, "statistics")
    output, same = apply(params, batch_stats, x, everyone(clips), train=False, axis_name=None)
    jax.tree.map(np.testing.assert_array_equal, same, batch_stats)
    assert_close(channels_first(output), reference.eval()(tensor(peer, channels_first(x))).detach().numpy(), 1e-5, "value")


@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
def test_batch_norm_gradients_equal_those_of_torch(peer, train):
    x = (noise(4, 5, 2, 3) + 1) * np.float32([0.1, 1.0, 5.0])
    compare_layer(
        peer, lambda: Normalise(3), peer.nn.BatchNorm2d(3).double(), x, clip_mask=everyone(4), train=train, axis_name=None
    )


def test_batch_norm_stands_a_mean_of_thirty_deviations():
    # The variance is the difference of two means, so rounding grows with the square of this ratio; of all that was tried, a batch
    # of silence comes nearest to it, in the first layer.
    apply, params, batch_stats = functional(lambda: Normalise(3))
    x = noise(4, 50, 4, 3) + 30
    output, _ = apply(params, batch_stats, x, everyone(4), train=True, axis_name=None)
    x = np.float64(x)
    expected = (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + 1e-5) * params["scale"] + params["bias"]
    assert_close(output, expected, 1e-3)


def padded_with_garbage(x, mask):
    """Puts the clips of `x` where the mask is True, and large noise elsewhere."""
    padded = 1e3 * noise(len(mask), *x.shape[1:], seed=9) + 500
    padded[mask] = x
    return padded


def value_statistics_and_gradients(apply, params, batch_stats, x, mask):
    """Of a layer or network in training, for fixed weights of the results of the clips that count."""

    def results(params, x):
        results, new_stats = apply(params, batch_stats, x, clip_mask=mask, train=True, axis_name=None)
        return jax.tree.map(lambda result: result[np.flatnonzero(mask)], results), new_stats

    results, gradients_of, new_stats = jax.vjp(results, params, x, has_aux=True)
    weights = jax.tree.map(lambda result: noise(*result.shape, seed=5), results)
    gradients, gradient_of_x = gradients_of(weights)
    return results, new_stats, gradients, np.asarray(gradient_of_x)


@pytest.mark.parametrize("mask", [[True, False, True, True, False], [False, True, True, True]], ids=str)
@pytest.mark.parametrize("part", ["batch norm", "network"])
def test_padded_clips_change_nothing(part, mask):
    build, shape = {
        "batch norm": (lambda: Normalise(3), (5, 2, 3)),
        "network": (small_network(ODD), (ODD["frames"], ODD["mel_bins"])),
    }[part]
    mask = np.array(mask)
    x = noise(3, *shape)
    ours = functional(build)
    *alone, gradient_of_x = value_statistics_and_gradients(*ours, x, everyone(3))
    *padded, gradient_of_padded = value_statistics_and_gradients(*ours, padded_with_garbage(x, mask), mask)
    assert_close(padded, alone, 2e-4)
    assert_close(gradient_of_padded[mask], gradient_of_x, 2e-4)
    assert not gradient_of_padded[~mask].any()


def test_padding_would_show_without_the_mask():
    # So that the test above is known to be able to fail.
    x = noise(3, 5, 2, 3)
    mask = np.array([True, False, True, True])
    ours = functional(lambda: Normalise(3))
    alone, *_ = value_statistics_and_gradients(*ours, x, everyone(3))
    unmasked, *_ = value_statistics_and_gradients(*ours, padded_with_garbage(x, mask), everyone(4))
    assert np.abs(unmasked[mask] - alone).max() > 0.5


def test_no_mask_means_that_all_clips_count():
    apply, params, batch_stats = functional(small_network(ODD))
    x = noise(2, ODD["frames"], ODD["mel_bins"])
    results = [apply(params, batch_stats, x, clip_mask=mask, train=True) for mask in (None, everyone(2))]
    assert_close(*results, 1e-5)


@pytest.mark.parametrize(
    "mask",
    [[[True, True], [True, True]], [[True, True], [True, False]], [[True, False], [False, False]]],
    ids=["no padding", "unequal", "a device of padding alone"],
)
def test_batch_norm_over_two_devices_equals_one(mask):
    """Values, running statistics and gradients; the mean of the devices' means would be wrong for unequal masks."""
    mask = np.array(mask)
    apply, params, batch_stats = functional(lambda: Normalise(3))
    # The second device's clips differ much from the first one's.
    x = noise(2, 2, 5, 2, 3) + np.float32([0, 3]).reshape(2, 1, 1, 1, 1)
    weights = noise(*x.shape, seed=1) * mask[..., None, None, None]

    def both(params, x, mask, weights, axis_name):
        def value(params, x):
            return apply(params, batch_stats, x, mask, train=True, axis_name=axis_name)

        output, gradients_of, new_stats = jax.vjp(value, params, x, has_aux=True)
        gradients, gradient_of_x = gradients_of(weights)
        return output, new_stats, gradients, gradient_of_x

    one = [array.reshape(4, *array.shape[2:]) for array in (x, mask, weights)]
    output, new_stats, gradients, gradient_of_x = both(params, *one, None)
    on_devices = jax.pmap(
        functools.partial(both, axis_name="device"), "device", in_axes=(None, 0, 0, 0), devices=jax.devices()[:2]
    )
    outputs, stats, parts, gradients_of_x = on_devices(params, x, mask, weights)

    assert_close(outputs[mask], output.reshape(x.shape)[mask], 1e-5, "value")
    for device in range(2):
        assert_close(jax.tree.map(operator.itemgetter(device), stats), new_stats, 1e-5, "statistics")
    assert_close(jax.tree.map(lambda leaf: leaf.sum(0), parts), gradients, 1e-5, "gradient of ")
    assert_close(gradients_of_x, np.reshape(gradient_of_x, x.shape), 1e-5, "gradient of the input")


# Compiled as a whole


def test_compiled_gradients_equal_those_computed_one_operation_at_a_time():
    # A compiler may compute a value twice, rounded in two ways; the gradient of a maximum that finds its place by comparing the
    # two is then lost. Clips of which half is padding have many places that are equal to the last bit.
    graphdef, params, batch_stats = split(
        JointNetwork(frames=500, mel_bins=32, scenes=3, events=0, tasks=("scene",), channels=4, rngs=nnx.Rngs(params=0))
    )
    log_mel = jnp.asarray(noise(4, 500, 32)).at[:, 250:].set(0)
    weights = noise(4, 3, seed=1)

    def loss(params):
        scenes, _ = nnx.merge(graphdef, params, batch_stats, copy=True)(log_mel, train=True)
        return jnp.sum(scenes * weights)

    with jax.default_matmul_precision("highest"):
        compiled = jax.jit(jax.grad(loss))(params)
        with jax.disable_jit():
            one_at_a_time = jax.grad(loss)(params)
    assert_close(compiled, one_at_a_time, 1e-4, "gradient of ")


# Dropout


def dropout_block(dropout):
    build = functools.partial(ConvBlock, 2, 40, slope=0.1, dropout=dropout)
    apply, params, batch_stats = functional(lambda: build(rngs=nnx.Rngs(params=0)))

    def run(**options):
        return apply(params, batch_stats, noise(4, 10, 6, 2), everyone(4), pool=(1, 2), axis_name=None, **options)[0]

    return run


def test_dropout_of_zero_is_the_identity():
    run = dropout_block(0.0)
    np.testing.assert_array_equal(run(train=True, dropout_key=jax.random.key(0)), run(train=True))


def test_dropout_acts_in_training_alone():
    key = jax.random.key(0)
    np.testing.assert_array_equal(dropout_block(0.3)(train=False, dropout_key=key), dropout_block(0.0)(train=False))
    assert np.any(dropout_block(0.3)(train=True, dropout_key=key) != dropout_block(0.0)(train=True))


def test_dropout_zeroes_its_share_and_keeps_the_mean():
    kept = np.asarray(dropout_block(0.0)(train=True))
    dropped = np.asarray(dropout_block(0.3)(train=True, dropout_key=jax.random.key(1)))
    assert np.all(kept != 0)
    zero = dropped == 0
    # 4,800 values: the share's deviation is 0.0066.
    assert zero.size == 4800
    assert abs(zero.mean() - 0.3) < 0.03
    np.testing.assert_allclose(dropped[~zero], kept[~zero] / 0.7, rtol=1e-6)
    assert abs(dropped.mean() - kept.mean()) < 0.1 * np.abs(kept).mean()


def test_dropout_in_training_needs_a_key():
    with pytest.raises(TypeError, match="key"):
        dropout_block(0.3)(train=True)


def test_dropout_of_the_network_follows_its_key():
    apply, params, batch_stats = functional(small_network(ODD, dropout=0.3))

    def logits(key, train):
        x = noise(2, ODD["frames"], ODD["mel_bins"])
        return apply(params, batch_stats, x, train=train, dropout_key=key)[0]

    keys = jax.random.split(jax.random.key(0), 2)
    for head in range(2):
        first, again, other = (logits(key, True)[head] for key in (keys[0], keys[0], keys[1]))
        np.testing.assert_array_equal(first, again)
        assert np.any(first != other)
        np.testing.assert_array_equal(logits(keys[0], False)[head], logits(keys[1], False)[head])


# The whole network


def peer_network(peer, size, params, batch_stats):
    network = peer.Network(**{"channels": 128, **size}).double()
    return peer.copy_into(network, params, batch_stats)


@pytest.mark.parametrize("size", [SMALL, ODD], ids=["small", "odd"])
def test_network_equals_that_of_torch(peer, size):
    """Two batches in training, with the running statistics after each, then one outside training."""
    apply, params, batch_stats = functional(small_network(size))
    reference = peer_network(peer, size, params, batch_stats)
    for number, train in enumerate((True, True, False)):
        x = noise(3, size["frames"], size["mel_bins"], seed=number)
        with peer.torch.no_grad():
            expected = reference.train(train)(tensor(peer, x))
        logits, batch_stats = apply(params, batch_stats, x, train=train)
        assert_close(logits, tuple(part.numpy() for part in expected), 1e-5, f"logits of batch {number}")
        assert_close(batch_stats, peer.arrays_of(reference, "batch_stats"), 1e-5, f"statistics after batch {number}")


def test_network_of_full_size_equals_that_of_torch(peer):
    apply, params, batch_stats = functional(small_network(PAPER))
    reference = peer_network(peer, PAPER, params, batch_stats)
    x = noise(2, 500, 64)
    for train in (True, False):
        with peer.torch.no_grad():
            expected = reference.train(train)(tensor(peer, x))
        logits, batch_stats = apply(params, batch_stats, x, train=train)
        assert_close(logits, tuple(part.numpy() for part in expected), 1e-4, "logits")
        assert_close(batch_stats, peer.arrays_of(reference, "batch_stats"), 1e-4, "statistics")


# Training

STEPS = 12
LEARNING_RATE, BETA1, BETA2, EPSILON = 1e-2, 0.9, 0.999, 1e-8
FOCAL = {"eta": 0.5, "gamma": 1.0, "zeta": 0.0625}
PLAIN = {"eta": 0.0, "gamma": 0.0, "zeta": 0.0}


def training_batches():
    """Batches of four clips, of which two to four count; clips of unequal length; scenes and events that can be learnt."""
    rng = np.random.default_rng(7)
    frames, bins, scenes, events = (SMALL[key] for key in ("frames", "mel_bins", "scenes", "events"))
    of_scenes, of_events = rng.standard_normal((scenes, bins)), rng.standard_normal((events, bins))
    for number in range(STEPS):
        scene = rng.integers(0, scenes, 4)
        active = np.repeat(rng.random((4, frames // 10, events)) < 0.2, 10, axis=1)
        log_mel = rng.standard_normal((4, frames, bins)) + of_scenes[scene][:, None] + 2 * active @ of_events
        yield {
            "log_mel": (3 * log_mel - 5).astype(np.float32),
            "events": active,
            "scene": scene.astype(np.int32),
            "valid_frames": rng.integers(60, frames + 1, 4).astype(np.int32),
            "clip_mask": np.arange(4) < (4, 3, 2)[number % 3],
        }


@functools.cache
def training(reduction, compute="float32"):
    """Returns the state before the first step and the compiled step, put together as a run does it."""
    graphdef, params, batch_stats = split(JointNetwork(**SMALL, compute=compute, rngs=nnx.Rngs(params=3)))
    rng = np.random.default_rng(8)
    state = step.TrainState(
        step=jnp.int32(0),
        params=params,
        batch_stats=batch_stats,
        opt_state=optax.radam(LEARNING_RATE).init(params),
        feature_stats={"mean": jnp.float32(rng.normal(-5, 1, 64)), "std": jnp.float32(rng.uniform(2, 4, 64))},
        sums=step.zero_sums(models.TASKS, SMALL["scenes"], SMALL["events"]),
    )
    options = {"reduction": reduction, "threshold": 0.5, "dropout": False, "axis_name": None}
    return state, jax.jit(functools.partial(step.train_step, graphdef=graphdef, **options))


def peer_loss(peer, network, batch, feature_stats, **weights):
    """The loss of a batch by the peer, which sees neither padded clips nor, in its loss, padded frames."""
    real = np.flatnonzero(batch["clip_mask"])
    log_mel = (batch["log_mel"][real] - np.float64(feature_stats["mean"])) / np.float64(feature_stats["std"])
    for clip, frames in zip(log_mel, batch["valid_frames"][real], strict=True):
        clip[frames:] = 0.0
    scene = peer.torch.tensor(batch["scene"][real], dtype=peer.torch.int64)
    events = peer.torch.tensor(batch["events"][real])
    return peer.multi_focal_loss(*network(tensor(peer, log_mel)), scene, events, batch["valid_frames"][real], **weights)


def rectifier(number):
    """RAdam's factor r of a step, from the paper of Liu et al.; None where the variance is intractable (rho <= 5)."""
    last = 2 / (1 - BETA2) - 1
    rho = last - 2 * number * BETA2**number / (1 - BETA2**number)
    return np.sqrt((rho - 4) * (rho - 2) * last / ((last - 4) * (last - 2) * rho)) if rho > 5 else None


def tensor_array(tensor):
    return tensor.detach().numpy().copy()


class StepMeter:
    """Finds out from the parameters and the two moments which branch of RAdam an optimiser took."""

    def __init__(self, params):
        self.params, self.branches, self.factor = self.vector(params), [], None

    @staticmethod
    def vector(tree):
        return np.concatenate([np.ravel(np.float64(leaf)) for leaf in jax.tree.leaves(tree)])

    def measure(self, params, first_moment, second_moment, learning_rate):
        number = len(self.branches) + 1
        before, self.params = self.params, self.vector(params)
        update = (before - self.params) / learning_rate
        plain = self.vector(first_moment) / (1 - BETA1**number)
        adaptive = plain / (np.sqrt(self.vector(second_moment) / (1 - BETA2**number)) + EPSILON)
        r = rectifier(number)
        self.factor = update @ adaptive / (adaptive @ adaptive)

        def is_near(direction, tolerance):
            return np.linalg.norm(update - direction) < tolerance * np.linalg.norm(update)

        branch = "neither"
        if is_near(plain, 1e-3):
            branch = "plain"
        elif r is not None and is_near(r * adaptive, 1e-2):
            branch = "rectified"
        self.branches.append(branch)


def relative_distances(ours, theirs, start=None):
    """The norm of the difference over that of `theirs` (or over the distance of `theirs` from `start`), leaf by leaf."""
    start = jax.tree.map(np.zeros_like, theirs) if start is None else start
    leaves = zip(jax.tree_util.tree_leaves_with_path(ours), jax.tree.leaves(theirs), jax.tree.leaves(start), strict=True)
    return {
        jax.tree_util.keystr(path): float(np.linalg.norm(our - their) / np.linalg.norm(their - at))
        for (path, our), their, at in leaves
    }


def train_both(peer, weights, reduction, *, align):
    """Trains the network and its peer (in float64) on the same batches; returns what there is to compare.

    The optimisers differ in two ways, both small. PyTorch adds epsilon before it corrects the second moment's bias, optax
    after it: PyTorch's counts 1 / sqrt(1 - 0.999^t) times as much, 13 times in step 6, which shows where gradients are below
    1e-5. And optax computes r in float32 with cancellation, 0.2 to 0.6 % too small in these steps. `align` takes both out of
    the comparison, by PyTorch's epsilon and learning rate of each step.
    """
    state, take_step = training(reduction)
    start = state.params
    network = peer_network(peer, SMALL, state.params, state.batch_stats)
    optimiser = peer.torch.optim.RAdam(network.parameters(), lr=LEARNING_RATE, betas=(BETA1, BETA2), eps=EPSILON)
    (group,) = optimiser.param_groups
    ours, theirs = StepMeter(state.params), StepMeter(list(map(tensor_array, network.parameters())))
    record = {"losses": [], "factors": [], "branches": [ours.branches, theirs.branches]}
    scalars = {key: jnp.float32(value) for key, value in {**weights, "learning_rate": LEARNING_RATE}.items()}
    for number, batch in enumerate(training_batches(), 1):
        optimiser.zero_grad()
        expected = peer_loss(peer, network, batch, state.feature_stats, reduction=reduction, **weights)
        expected.backward()
        state, loss = take_step(state, batch, scalars)
        moments = state.opt_state[0]
        ours.measure(state.params, moments.mu, moments.nu, LEARNING_RATE)
        record["losses"].append((float(loss), expected.item()))
        if number == 1:
            # The first moment after one step is a tenth of the gradient.
            gradients = jax.tree.map(lambda moment: moment / (1 - BETA1), moments.mu)
            record["gradients"] = gradients, peer.arrays_of(network, "gradients")
        if (r := rectifier(number)) is not None:
            record["factors"].append(ours.factor / r)
            if align:
                group["lr"] = LEARNING_RATE * ours.factor / r
        if align:
            group["eps"] = EPSILON * np.sqrt(1 - BETA2**number)
        optimiser.step()
        parameters = list(network.parameters())
        moments = [[tensor_array(optimiser.state[p][name]) for p in parameters] for name in ("exp_avg", "exp_avg_sq")]
        theirs.measure(list(map(tensor_array, parameters)), *moments, group["lr"])
    record["params"] = relative_distances(state.params, peer.arrays_of(network, "params"), jax.tree.map(np.asarray, start))
    record["batch_stats"] = relative_distances(state.batch_stats, peer.arrays_of(network, "batch_stats"))
    return record


def worst(distances):
    return max((distance, name) for name, distance in distances.items())


BRANCHES = ["plain"] * 5 + ["rectified"] * (STEPS - 5)


@pytest.mark.parametrize(
    ("alpha", "focal", "reduction"),
    [(0.001, FOCAL, "mean"), (1.0, FOCAL, "mean"), (1.0, PLAIN, "mean"), (0.001, FOCAL, "sum")],
    ids=["paper", "paper but alpha 1", "plain", "paper, summed"],
)
def test_twelve_radam_steps_equal_those_of_torch(peer, alpha, focal, reduction):
    """Rounding is all that is left to differ: about 1e-4 of the distance moved; a wrong gradient or moment is far above 1e-3."""
    record = train_both(peer, {"alpha": alpha, "beta": 1.0, **focal}, reduction, align=True)
    assert record["branches"] == [BRANCHES, BRANCHES]
    assert worst(relative_distances(*record["gradients"]))[0] < 1e-5
    np.testing.assert_allclose(*np.transpose(record["losses"]), rtol=1e-5)
    assert worst(record["params"])[0] < 1e-3
    assert worst(record["batch_stats"])[0] < 1e-5
    # What was aligned is small: optax's rounding of r.
    np.testing.assert_allclose(record["factors"], 1, atol=1e-2)


@pytest.mark.parametrize("focal", [FOCAL, PLAIN], ids=["focal", "plain"])
def test_twelve_radam_steps_nearly_equal_those_of_torch_as_it_is(peer, focal):
    # Alpha 1: with 0.001 the gradients of the scene head are so small that the place of epsilon moves it by 3 % more or less.
    record = train_both(peer, {"alpha": 1.0, "beta": 1.0, **focal}, "mean", align=False)
    assert record["branches"] == [BRANCHES, BRANCHES]
    np.testing.assert_allclose(*np.transpose(record["losses"]), rtol=1e-4)
    assert worst(record["params"])[0] < 1e-2


def test_rectification_begins_at_step_six():
    assert [rectifier(number) is None for number in range(1, STEPS + 1)] == [True] * 5 + [False] * (STEPS - 5)


def test_bfloat16_keeps_all_state_in_float32_and_stays_near():
    """bfloat16 has 8 bits: losses agree to some percent. Where it rounds two values of a pool to one, another one is chosen."""
    fields = {**FOCAL, "alpha": 1.0, "beta": 1.0, "learning_rate": LEARNING_RATE}
    scalars = {key: jnp.float32(value) for key, value in fields.items()}
    losses, gradients = {}, {}
    for compute in ("float32", "bfloat16"):
        state, take_step = training("mean", compute)
        losses[compute] = []
        for number, batch in enumerate(training_batches(), 1):
            state, loss = take_step(state, batch, scalars)
            losses[compute].append(float(loss))
            if number == 1:
                gradients[compute] = state.opt_state[0].mu
        floats = [leaf.dtype for leaf in jax.tree.leaves(state) if jnp.issubdtype(leaf.dtype, jnp.floating)]
        assert set(floats) == {jnp.dtype("float32")}
    np.testing.assert_allclose(losses["bfloat16"], losses["float32"], rtol=3e-2)
    assert not np.allclose(losses["bfloat16"], losses["float32"], rtol=1e-6)
    ours, exact = (np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)]) for tree in gradients.values())
    assert ours @ exact > 0.97 * np.linalg.norm(ours) * np.linalg.norm(exact)
    batch = next(training_batches())
    text = take_step.lower(state, batch, scalars).as_text()
    convolutions = [line for line in text.splitlines() if "stablehlo.convolution" in line]
    assert convolutions and all("xbf16>" in line and "xf32>" not in line for line in convolutions)
