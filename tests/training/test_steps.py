"""Training steps with RAdam against PyTorch on the same batches, bfloat16 against float32, and the figures of an epoch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mfl_jax.network import joint_network
from mfl_jax.network.joint_network import JointNetwork
from mfl_jax.training import focal_loss, steps
from mfl_jax.training.optimiser import make_optimiser
from support.networks import SMALL, peer_network, split, tensor

pytestmark = pytest.mark.lightly_optimised

STEPS = 12
LEARNING_RATE, BETA1, BETA2, EPSILON = 1e-2, 0.9, 0.999, 1e-8
FOCAL = {"eta": 0.5, "gamma": 1.0, "zeta": 0.0625}
PLAIN = {"eta": 0.0, "gamma": 0.0, "zeta": 0.0}
UNWEIGHTED = {"scene_weight": 1.0, "active_weight": 1.0, "inactive_weight": 1.0}
SCALARS = {**PLAIN, **UNWEIGHTED, "alpha": 1.0, "beta": 1.0, "learning_rate": LEARNING_RATE}


def make_scalars(**fields):
    """The scalars of a step with a seed, without further loss terms and augmentations."""
    scalars = {key: jnp.float32(value) for key, value in {**SCALARS, **fields}.items()}
    return {**scalars, "seed": jnp.uint32(0), "loss_terms": {}, "augmentations": {}}


def training_batches():
    """Yields batches of four clips of unequal length, two to four of them unmasked, with learnable scenes and events."""
    rng = np.random.default_rng(7)
    frames, bins, scenes, events = (SMALL[key] for key in ("frames", "mel_bins", "scenes", "events"))
    scene_spectra, event_spectra = rng.standard_normal((scenes, bins)), rng.standard_normal((events, bins))
    for number in range(STEPS):
        scene = rng.integers(0, scenes, 4)
        active = np.repeat(rng.random((4, frames // 10, events)) < 0.2, 10, axis=1)
        log_mel = rng.standard_normal((4, frames, bins)) + scene_spectra[scene][:, None] + 2 * active @ event_spectra
        yield {
            "log_mel": (3 * log_mel - 5).astype(np.float32),
            "events": active,
            "scene": scene.astype(np.int32),
            "valid_frames": rng.integers(60, frames + 1, 4).astype(np.int32),
            "scene_mask": np.ones(4, bool),
            "event_mask": np.ones(4, bool),
            "clip_mask": np.arange(4) < (4, 3, 2)[number % 3],
        }


@functools.cache
def training(reduction, compute="float32"):
    """Returns the state before the first step and the compiled step, built like those of a run."""
    # PyTorch's network counts padded frames.
    network = JointNetwork(**SMALL, compute=compute, mask_padding=False, rngs=nnx.Rngs(params=3))
    graphdef, params, batch_stats = split(network)
    rng = np.random.default_rng(8)
    state = steps.TrainState(
        step=jnp.int32(0),
        params=params,
        batch_stats=batch_stats,
        opt_state=make_optimiser("radam", {"learning_rate": LEARNING_RATE}).init(params),
        feature_stats={"mean": jnp.float32(rng.normal(-5, 1, 64)), "std": jnp.float32(rng.uniform(2, 4, 64))},
        sums=steps.zero_sums(joint_network.TASKS, SMALL["scenes"], SMALL["events"], make_scalars()),
    )
    options = {"reduction": reduction, "threshold": 0.5, "optimiser": "radam", "axis_name": None}
    return state, jax.jit(functools.partial(steps.train_step, graphdef=graphdef, **options))


def peer_loss(peer, network, batch, feature_stats, **weights):
    """Computes the loss of a batch with the peer, which gets no padded clips and ignores padded frames in its loss."""
    real = np.flatnonzero(batch["clip_mask"])
    log_mel = (batch["log_mel"][real] - np.float64(feature_stats["mean"])) / np.float64(feature_stats["std"])
    for clip, frames in zip(log_mel, batch["valid_frames"][real], strict=True):
        clip[frames:] = 0.0
    scene = peer.torch.tensor(batch["scene"][real], dtype=peer.torch.int64)
    events = peer.torch.tensor(batch["events"][real])
    return peer.multi_focal_loss(*network(tensor(peer, log_mel)), scene, events, batch["valid_frames"][real], **weights)


def rectifier(number):
    """Computes RAdam's factor r of a step (Liu et al.); None while the variance is intractable (rho <= 5)."""
    last = 2 / (1 - BETA2) - 1
    rho = last - 2 * number * BETA2**number / (1 - BETA2**number)
    return np.sqrt((rho - 4) * (rho - 2) * last / ((last - 4) * (last - 2) * rho)) if rho > 5 else None


def tensor_array(tensor):
    return tensor.detach().numpy().copy()


class StepMeter:
    """Tells from the parameters and the two moments which branch of RAdam an optimiser took."""

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
    """Computes |ours - theirs| / |theirs - start| for each leaf; `start` is zero by default."""
    start = jax.tree.map(np.zeros_like, theirs) if start is None else start
    leaves = zip(jax.tree_util.tree_leaves_with_path(ours), jax.tree.leaves(theirs), jax.tree.leaves(start), strict=True)
    return {
        jax.tree_util.keystr(path): float(np.linalg.norm(our - their) / np.linalg.norm(their - at))
        for (path, our), their, at in leaves
    }


def train_both(peer, weights, reduction, *, align):
    """Trains the network and its peer (in float64) on the same batches; returns the figures to compare.

    The optimisers differ in two small ways. PyTorch adds epsilon before correcting the bias of the second moment, optax after:
    PyTorch's epsilon counts 1 / sqrt(1 - 0.999^t) times as much, 13 times in step 6, which shows where gradients are below 1e-5.
    And optax computes r in float32 with cancellation, 0.2 to 0.6 % too small in these steps. `align` removes both differences
    by adjusting PyTorch's epsilon and learning rate in each step.
    """
    state, take_step = training(reduction)
    start = state.params
    network = peer_network(peer, SMALL, state.params, state.batch_stats)
    optimiser = peer.torch.optim.RAdam(network.parameters(), lr=LEARNING_RATE, betas=(BETA1, BETA2), eps=EPSILON)
    (group,) = optimiser.param_groups
    ours, theirs = StepMeter(state.params), StepMeter(list(map(tensor_array, network.parameters())))
    record = {"losses": [], "factors": [], "branches": [ours.branches, theirs.branches]}
    scalars = make_scalars(**weights)
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
            record["gradients"] = gradients, peer.read_arrays(network, "gradients")
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
    record["params"] = relative_distances(state.params, peer.read_arrays(network, "params"), jax.tree.map(np.asarray, start))
    record["batch_stats"] = relative_distances(state.batch_stats, peer.read_arrays(network, "batch_stats"))
    return record


def worst(distances):
    return max((distance, name) for name, distance in distances.items())


BRANCHES = ["plain"] * 5 + ["rectified"] * (STEPS - 5)


@pytest.mark.parametrize(
    ("alpha", "focal", "reduction"),
    [(0.001, FOCAL, "mean"), (1.0, PLAIN, "mean"), (0.001, FOCAL, "sum")],
    ids=["paper", "plain", "paper, summed"],
)
def test_twelve_radam_steps_equal_torch(peer, alpha, focal, reduction):
    """Only rounding differs: about 1e-4 of the distance moved. A wrong gradient or moment would be far above 1e-3."""
    record = train_both(peer, {"alpha": alpha, "beta": 1.0, **focal}, reduction, align=True)
    assert record["branches"] == [BRANCHES, BRANCHES]
    assert worst(relative_distances(*record["gradients"]))[0] < 1e-5
    np.testing.assert_allclose(*np.transpose(record["losses"]), rtol=1e-5)
    assert worst(record["params"])[0] < 1e-3
    assert worst(record["batch_stats"])[0] < 1e-5
    # The aligned difference is small: optax's rounding of r.
    np.testing.assert_allclose(record["factors"], 1, atol=1e-2)


def test_twelve_radam_steps_nearly_equal_unaligned_torch(peer):
    # Alpha is 1: with 0.001 the gradients of the scene head are so small that the place of epsilon changes its movement by 3 %.
    record = train_both(peer, {"alpha": 1.0, "beta": 1.0, **FOCAL}, "mean", align=False)
    assert record["branches"] == [BRANCHES, BRANCHES]
    np.testing.assert_allclose(*np.transpose(record["losses"]), rtol=1e-4)
    assert worst(record["params"])[0] < 1e-2


def test_rectification_begins_at_step_six():
    assert [rectifier(number) is None for number in range(1, STEPS + 1)] == [True] * 5 + [False] * (STEPS - 5)


@pytest.mark.ci_only
def test_bfloat16_keeps_the_state_in_float32_and_stays_close():
    """bfloat16 has 8 bits, so losses agree to a few percent: ties in a pool choose another maximum."""
    scalars = make_scalars(**FOCAL)
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


SCENE_LOGITS = np.float32([[2.0, -1.0], [0.5, 3.0], [-200.0, 200.0]])
SCENES = np.array([0, 0, 1])
EVENT_LOGITS = np.float32([[[0.3, -2.0], [200.0, 200.0]], [[-200.0, 1.5], [-4.0, -0.2]], [[-200.0, 3.0], [2.5, 0.0]]])
ACTIVE = np.array([[[True, False], [True, False]], [[True, True], [False, False]], [[False, True], [True, False]]])


@jax.jit
def loss_sums(scene_logits, scenes, event_logits, active, clip_mask, focal):
    frame_mask = jnp.tile(clip_mask[:, None], 2)
    return {
        "scene": focal_loss.scene_sums(scene_logits, scenes, clip_mask, eta=focal["eta"]),
        "event": focal_loss.event_sums(event_logits, active, frame_mask, gamma=focal["gamma"], zeta=focal["zeta"]),
    }


def multipliers(
    scene_logits=SCENE_LOGITS, scenes=SCENES, event_logits=EVENT_LOGITS, active=ACTIVE, focal=FOCAL, parts=((1, 1, 1),)
):
    """The loss multipliers of scenes, active and inactive cells, with the sums of several parts of the clips added up."""
    sums = [loss_sums(scene_logits, scenes, event_logits, active, np.array(part, bool), focal) for part in parts]
    return select_multipliers(jax.tree.map(lambda *leaves: sum(leaves), *sums))


def select_multipliers(sums):
    counts = jax.device_get(steps.zero_sums(joint_network.TASKS, 2, 2, make_scalars()))
    tasks = {task: {**sums[task], "counts": counts[task]["counts"]} for task in sums}
    figures = steps.epoch_figures({"clips": 3.0, **tasks}, reduction="mean")
    event = figures["event"]
    return [figures["scene"]["loss_multiplier"], event["loss_multiplier_active"], event["loss_multiplier_inactive"]]


def multiplier_by_hand(margins, focus):
    """The sum of f l over the sum of l in float64, with l = -log sigmoid(margin) and f = sigmoid(-margin)^focus."""
    margins = np.float64(margins)
    plain, factor = np.logaddexp(0, -margins), np.exp(-focus * np.logaddexp(0, margins))
    return (factor * plain).sum() / plain.sum()


@pytest.mark.parametrize("parts", [((1, 1, 1),), ((1, 0, 0), (0, 1, 1))], ids=["one sum", "two devices"])
@pytest.mark.parametrize("scale", [1.0, 0.01], ids=["saturated", "not saturated"])
def test_loss_multipliers_by_hand(parts, scale):
    scene_logits, event_logits = scale * SCENE_LOGITS, scale * EVENT_LOGITS
    scene_margins = (scene_logits[:, 0] - scene_logits[:, 1]) * [1, 1, -1]
    expected = [
        multiplier_by_hand(scene_margins, FOCAL["eta"]),
        multiplier_by_hand(event_logits[ACTIVE], FOCAL["gamma"]),
        multiplier_by_hand(-event_logits[~ACTIVE], FOCAL["zeta"]),
    ]
    got = multipliers(scene_logits, event_logits=event_logits, parts=parts)
    assert got == pytest.approx(expected, rel=1e-5)
    if scale == 1.0:
        assert (
            got[1] > 0.97
        )  # the factor of the wrong saturated cell, which has nearly all of the plain loss; the mean factor is 0.3


def test_loss_multipliers_of_plain_losses_are_one():
    assert multipliers(focal=PLAIN) == pytest.approx([1, 1, 1], rel=1e-6)


def test_loss_multipliers_of_nothing_are_none():
    _, active, inactive = multipliers(active=np.zeros_like(ACTIVE))
    assert active is None and 0 < inactive < 1
    # Where all answers are right and saturated, the plain losses underflow to 0.
    right = np.float32([[300.0, -300.0]] * 3), np.zeros(3, int), np.where(ACTIVE, np.float32(200), np.float32(-200))
    assert multipliers(*right) == [None, None, None]


def test_without_plain_losses_of_the_whole_epoch_multipliers_are_none():
    sums = jax.tree.map(lambda leaf: leaf + 1.0, jax.device_get(steps.zero_sums(joint_network.TASKS, 2, 2, make_scalars())))
    assert select_multipliers({task: sums[task] for task in ("scene", "event")}) == [1, 1, 1]
    sums["scene"]["plain_loss"] = sums["event"]["active_plain_loss"] = sums["event"]["inactive_plain_loss"] = np.float32(np.nan)
    assert select_multipliers({task: sums[task] for task in ("scene", "event")}) == [None, None, None]
