"""The network's parameters and shapes against the paper's, its errors, and single-task networks against the joint one."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from mfl_jax.network import joint_network
from mfl_jax.network.joint_network import JointNetwork
from support.networks import PAPER, SMALL, assert_close, functional, noise, small_network, split


def abstract(tasks=joint_network.TASKS, **size):
    """Shapes of the network's parameters, its statistics and its result for three clips."""
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


def test_torch_network_has_the_same_number(peer):
    network = peer.Network(**PAPER, channels=128)
    assert sum(parameter.numel() for parameter in network.parameters()) == 1_249_533


@pytest.mark.parametrize(
    "size",
    [{}, {"frames": 25}, {"frames": 130}, {"mel_bins": 32}, {"mel_bins": 40}, {"mel_bins": 128}, {"scenes": 1}, {"scenes": 15},
     {"events": 1}, {"events": 3}],
    ids=str,
)  # fmt: skip
def test_logits_have_one_row_per_clip_and_per_frame(size):
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
def test_single_task_network_has_no_other_head(task, other):
    joint, _, _ = abstract()
    params, batch_stats, logits = abstract(tasks=(task,))
    assert set(params) == {"shared", task}
    assert names(params) == {name for name in names(joint) if not name.startswith(other)}
    assert other not in batch_stats
    assert logits[joint_network.TASKS.index(other)] is None
    assert logits[joint_network.TASKS.index(task)].shape[0] == 3


@pytest.mark.parametrize("task", joint_network.TASKS)
def test_single_task_network_needs_no_classes_of_the_other_task(task):
    size = {"scene": {"events": 0}, "event": {"scenes": 0, "frames": 24}}[task]
    _, _, logits = abstract(tasks=(task,), **size)
    assert logits[joint_network.TASKS.index(task)].shape[0] == 3


def test_single_task_networks_equal_the_joint_one():
    joint, params, batch_stats = functional(small_network(SMALL))
    log_mel = noise(2, 100, 64)
    (scene_logits, event_logits), _ = joint(params, batch_stats, log_mel)
    scene, _, _ = functional(small_network(SMALL, tasks=("scene",)))
    event, _, _ = functional(small_network(SMALL, tasks=("event",)))
    scene_params = {key: params[key] for key in ("shared", "scene")}
    event_params = {key: params[key] for key in ("shared", "event")}
    assert_close(scene(scene_params, batch_stats, log_mel)[0][0], scene_logits, 1e-6)
    assert_close(event(event_params, {"shared": batch_stats["shared"]}, log_mel)[0][1], event_logits, 1e-6)


@pytest.mark.parametrize("tasks", joint_network.TASKS)
def test_convolutions_have_no_bias(tasks):
    # Their gradient would be zero up to rounding, which RAdam scales up to full steps.
    conv_names = {name for name in names(abstract(tasks=(tasks,))[0]) if "/conv/" in name}
    assert conv_names
    assert {name.split("/")[-1] for name in conv_names} == {"kernel"}


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
def test_invalid_sizes_raise(change, message):
    with pytest.raises(ValueError, match=message):
        JointNetwork(**{**PAPER, "channels": 2, **change}, rngs=nnx.Rngs(params=0))
