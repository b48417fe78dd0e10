"""The loss against the paper's equations in 60 digits, and its sums and reductions against values computed by hand."""

import itertools

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

from mfl_jax.training import focal_loss

pytestmark = pytest.mark.lightly_optimised

mpmath.mp.dps = 60

EXPONENTS = [0.0, 0.0625, 0.5, 1.0, 2.0]
DTYPES = [(jnp.float32, 200, 1e-5), (jnp.bfloat16, 50, 2e-2)]
UNDERFLOW = 1e-37


def sigmoid(x):
    return 1 / (1 + mpmath.exp(-x))


def power(base, exponent):
    return mpmath.mpf(1) if exponent == 0 else base**exponent


def printed_event_term(x, active, gamma, zeta):
    """Computes a term of Eq. 6 from probabilities; 1 - y is the sigmoid of -x."""
    y, not_y = sigmoid(x), sigmoid(-x)
    return -power(not_y, gamma) * mpmath.log(y) if active else -power(y, zeta) * mpmath.log(not_y)


def printed_event_gradient(x, active, gamma, zeta):
    """Computes d/dx of the term, with dy/dx = y (1 - y)."""
    if not active:
        return -printed_event_gradient(-x, True, zeta, gamma)
    y, not_y = sigmoid(x), sigmoid(-x)
    return gamma * y * power(not_y, gamma) * mpmath.log(y) - power(not_y, gamma) * not_y


def printed_scene_term(logits, scene, eta):
    """Computes the term of Eq. 5 for the true scene from probabilities."""
    terms = [mpmath.exp(x) for x in logits]
    others = mpmath.fsum(term for n, term in enumerate(terms) if n != scene)
    total = others + terms[scene]
    return -power(others / total, eta) * mpmath.log(terms[scene] / total)


def printed_scene_gradient(logits, scene, eta):
    """Computes d/dx_k: with p the true probability and q = 1 - p, dp/dx_k = p (1[k = n] - y_k)."""
    terms = [mpmath.exp(x) for x in logits]
    total = mpmath.fsum(terms)
    p = terms[scene] / total
    q = mpmath.fsum(term for n, term in enumerate(terms) if n != scene) / total
    dloss_dp = eta * power(q, eta) / q * mpmath.log(p) - power(q, eta) / p
    return [dloss_dp * p * (q if k == scene else -terms[k] / total) for k in range(len(logits))]


def assert_close(got, want, relative):
    """Allows a relative error of `relative`, or an absolute error of 1e-37 where the true value underflows."""
    got = np.asarray(got, np.float64)
    assert np.isfinite(got).all()
    for value, truth in zip(got.ravel(), want, strict=True):
        error = abs(mpmath.mpf(float(value)) - truth)
        assert error <= max(relative * abs(truth), UNDERFLOW), (float(value), mpmath.nstr(truth, 10))


def spread_logits(limit):
    steps = np.concatenate(
        [np.linspace(-limit, limit, 41), [-88.5, -30.3, -5.1, -1.7, -0.01, 1e-4, 0.3, 2.2, 7.7, 16.6, 40.4, 87.9]]
    )
    return steps[np.abs(steps) <= limit]


@pytest.mark.parametrize(("dtype", "limit", "relative"), DTYPES)
@pytest.mark.parametrize("exponent", EXPONENTS)
def test_event_terms_and_gradients_equal_the_equation(dtype, limit, relative, exponent):
    x = jnp.asarray(spread_logits(limit), dtype)[:, None]
    for active in (True, False):
        labels = jnp.full(x.shape, active)

        def total(x, labels=labels):
            return focal_loss.event_focal_terms(x, labels, gamma=exponent, zeta=exponent)[0].sum()

        value, factor, _ = focal_loss.event_focal_terms(x, labels, gamma=exponent, zeta=exponent)
        gradient = jax.grad(total)(x)
        assert gradient.dtype == dtype
        exact = [mpmath.mpf(float(logit)) for logit in x[:, 0]]
        e = mpmath.mpf(exponent)
        assert_close(value, [printed_event_term(v, active, e, e) for v in exact], relative)
        assert_close(gradient.astype(jnp.float32), [printed_event_gradient(v, active, e, e) for v in exact], relative)
        assert_close(factor, [power(sigmoid(-v if active else v), e) for v in exact], relative)


@pytest.mark.parametrize(("gamma", "zeta"), [(1.0, 0.0625), (0.0625, 1.0), (0.0, 2.0), (2.0, 0.0)])
def test_gamma_focuses_active_frames_and_zeta_inactive_ones(gamma, zeta):
    x = jnp.asarray([-200.0, -3.0, 0.0, 0.7, 5.0, 200.0]).repeat(2)
    active = jnp.asarray([True, False] * 6)

    def total(x):
        return focal_loss.event_focal_terms(x[:, None], active[:, None], gamma=gamma, zeta=zeta)[0].sum()

    value, factor, _ = focal_loss.event_focal_terms(x[:, None], active[:, None], gamma=gamma, zeta=zeta)
    g, z = mpmath.mpf(gamma), mpmath.mpf(zeta)
    cells = [(mpmath.mpf(float(logit)), bool(on), g, z) for logit, on in zip(x, active, strict=True)]
    assert_close(value, [printed_event_term(*cell) for cell in cells], 1e-5)
    assert_close(jax.grad(total)(x), [printed_event_gradient(*cell) for cell in cells], 1e-5)
    assert_close(factor, [power(sigmoid(-v), g) if on else power(sigmoid(v), z) for v, on, *_ in cells], 1e-5)


def scene_rows(limit):
    """Builds rows of logits: saturated either way, nearly tied at a large offset, equal, and random."""
    fixed = [[limit, -limit, -limit], [-limit, limit, limit], [limit, limit - 1, 0.9 * limit], [limit, limit, limit], [0, 0, 0]]
    rng = np.random.default_rng(0)
    return np.concatenate([fixed, rng.uniform(-limit, limit, (12, 3)), rng.normal(0, 4, (20, 3)).clip(-limit, limit)])


@pytest.mark.parametrize(("dtype", "limit", "relative"), DTYPES)
@pytest.mark.parametrize("eta", EXPONENTS)
@pytest.mark.parametrize("classes", [2, 3, 6])
def test_scene_terms_and_gradients_equal_the_equation(dtype, limit, relative, eta, classes):
    rows = scene_rows(limit)
    rows = np.concatenate([rows, rows[::-1] * 0.73], axis=1)[:, :classes]
    x = jnp.asarray(rows, dtype)
    for scene in range(min(classes, 3)):
        scenes = jnp.full(len(rows), scene)

        def total(x, scenes=scenes):
            return focal_loss.scene_focal_terms(x, scenes, eta=eta)[0].sum()

        value, *_ = focal_loss.scene_focal_terms(x, scenes, eta=eta)
        gradient = jax.grad(total)(x)
        exact = [[mpmath.mpf(float(logit)) for logit in row] for row in x]
        e = mpmath.mpf(eta)
        assert_close(value, [printed_scene_term(row, scene, e) for row in exact], relative)
        want = itertools.chain.from_iterable(printed_scene_gradient(row, scene, e) for row in exact)
        assert_close(gradient.astype(jnp.float32), list(want), relative)


def test_without_focus_the_terms_equal_the_cross_entropies():
    rng = np.random.default_rng(1)
    logits, scenes = rng.normal(0, 5, (50, 4)), rng.integers(0, 4, 50)
    plain = -np.log(np.exp(logits)[np.arange(50), scenes] / np.exp(logits).sum(1))
    value, factor, _ = focal_loss.scene_focal_terms(jnp.asarray(logits, jnp.float32), jnp.asarray(scenes), eta=0.0)
    np.testing.assert_allclose(value, -np.log(_softmax(np.float32(logits).astype(np.float64))[np.arange(50), scenes]), rtol=1e-6)
    np.testing.assert_allclose(value, plain, rtol=1e-4)
    assert (np.asarray(factor) == 1).all()
    events, active = np.float32(rng.normal(0, 5, (50, 7))), rng.random((50, 7)) < 0.3
    exact = events.astype(np.float64)
    want = np.where(active, np.logaddexp(0, -exact), np.logaddexp(0, exact))
    value, factor, _ = focal_loss.event_focal_terms(jnp.asarray(events), jnp.asarray(active), gamma=0.0, zeta=0.0)
    np.testing.assert_allclose(value, want, rtol=1e-6)
    assert (np.asarray(factor) == 1).all()


def _softmax(x):
    e = np.exp(x - x.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


@pytest.mark.parametrize("eta", EXPONENTS)
def test_with_a_single_scene_the_loss_and_its_gradient_are_zero(eta):
    x = jnp.asarray([[-200.0], [0.0], [200.0]])
    scenes = jnp.zeros(3, int)
    value, gradient = jax.value_and_grad(lambda x: focal_loss.scene_focal_terms(x, scenes, eta=eta)[0].sum())(x)
    assert value == 0 and (gradient == 0).all()


def test_the_event_loss_without_event_classes_is_refused():
    with pytest.raises(ValueError, match="at least one event class"):
        focal_loss.event_focal_terms(jnp.zeros((5, 0)), jnp.zeros((5, 0), bool), gamma=1.0, zeta=1.0)


def some_batch(seed, clips=4):
    rng = np.random.default_rng(seed)
    return {
        "scene_logits": jnp.asarray(rng.normal(0, 3, (clips, 4)), jnp.float32),
        "scenes": jnp.asarray(rng.integers(0, 4, clips)),
        "event_logits": jnp.asarray(rng.normal(0, 3, (clips, 6, 5)), jnp.float32),
        "active": jnp.asarray(rng.random((clips, 6, 5)) < 0.3),
        "clip_mask": jnp.asarray(np.arange(clips) != 2),
        "frame_mask": jnp.asarray(rng.random((clips, 6)) < 0.7),
    }


FOCUS = {"gamma": 1.0, "zeta": 0.0625}


def test_masked_clips_and_frames_change_neither_value_nor_gradient():
    batch = some_batch(0)
    wild = dict(batch)
    wild["scene_logits"] = jnp.where(batch["clip_mask"][:, None], batch["scene_logits"], 1e30)
    wild["event_logits"] = jnp.where(batch["frame_mask"][..., None], batch["event_logits"], -1e30)

    def total(scene_logits, event_logits, batch=batch):
        scene = focal_loss.scene_sums(scene_logits, batch["scenes"], batch["clip_mask"], eta=0.5)
        event = focal_loss.event_sums(event_logits, batch["active"], batch["frame_mask"], **FOCUS)
        return scene["loss"] + event["loss"] + scene["factor"] + event["active_factor"] + event["inactive_factor"]

    results = [jax.value_and_grad(total, (0, 1))(b["scene_logits"], b["event_logits"]) for b in (batch, wild)]
    (value, (scene, event)), (wild_value, (wild_scene, wild_event)) = results
    assert value == wild_value
    np.testing.assert_array_equal(scene, wild_scene)
    np.testing.assert_array_equal(event, wild_event)
    assert (scene[2] == 0).all() and (event[~batch["frame_mask"]] == 0).all()
    assert (scene[0] != 0).all()


def test_sums_cover_the_unmasked_clips_and_frames():
    batch = some_batch(1)
    event = focal_loss.event_sums(batch["event_logits"], batch["active"], batch["frame_mask"], **FOCUS)
    loss, factor, plain = focal_loss.event_focal_terms(batch["event_logits"], batch["active"], **FOCUS)
    mask = np.broadcast_to(np.asarray(batch["frame_mask"])[..., None], batch["active"].shape)
    on, off = mask & np.asarray(batch["active"]), mask & ~np.asarray(batch["active"])
    assert (event["active"], event["inactive"]) == (on.sum(), off.sum())
    np.testing.assert_allclose(event["loss"], np.asarray(loss)[mask].sum(), rtol=1e-5)
    np.testing.assert_allclose(event["active_factor"], np.asarray(factor)[on].sum(), rtol=1e-5)
    np.testing.assert_allclose(event["inactive_factor"], np.asarray(factor)[off].sum(), rtol=1e-5)
    for kind, terms in (("loss", loss), ("plain_loss", plain)):
        np.testing.assert_allclose(event[f"active_{kind}"], np.asarray(terms)[on].sum(), rtol=1e-5)
        np.testing.assert_allclose(event[f"inactive_{kind}"], np.asarray(terms)[off].sum(), rtol=1e-5)
    scene = focal_loss.scene_sums(batch["scene_logits"], batch["scenes"], batch["clip_mask"], eta=0.5)
    loss, factor, plain = focal_loss.scene_focal_terms(batch["scene_logits"], batch["scenes"], eta=0.5)
    assert scene["clips"] == 3
    np.testing.assert_allclose(scene["loss"], np.asarray(loss)[[0, 1, 3]].sum(), rtol=1e-6)
    np.testing.assert_allclose(scene["factor"], np.asarray(factor)[[0, 1, 3]].sum(), rtol=1e-6)
    np.testing.assert_allclose(scene["plain_loss"], np.asarray(plain)[[0, 1, 3]].sum(), rtol=1e-6)


def test_sums_of_parts_add_up():
    batch = some_batch(2, clips=6)

    def sums(part):
        b = {key: value[part] for key, value in batch.items()}
        return [
            focal_loss.scene_sums(b["scene_logits"], b["scenes"], b["clip_mask"], eta=0.5),
            focal_loss.event_sums(b["event_logits"], b["active"], b["frame_mask"], **FOCUS),
        ]

    added = jax.tree.map(jnp.add, sums(slice(0, 2)), sums(slice(2, 6)))
    for a, b in zip(jax.tree.leaves(added), jax.tree.leaves(sums(slice(0, 6))), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_reductions_and_weights_by_hand():
    scene = {"loss": jnp.float32(6), "factor": jnp.float32(1), "clips": jnp.float32(3)}
    event = {"loss": jnp.float32(40), "active": jnp.float32(3), "inactive": jnp.float32(7), "clips": jnp.float32(3)}

    def loss(scene, event, **options):
        return float(focal_loss.multi_focal_loss(scene, event, **{"alpha": 0.5, "beta": 2.0, "reduction": "mean", **options}))

    # alpha weighs the scene: 0.5 * 6 / 3; beta the events: 2 * 40 / 10 cells, or 2 * 40 / 3 clips.
    assert loss(scene, None) == pytest.approx(1.0)
    assert loss(None, event) == pytest.approx(8.0)
    assert loss(scene, event) == pytest.approx(9.0)
    assert loss(scene, event, reduction="sum") == pytest.approx(1.0 + 80 / 3)
    assert loss(scene, event, alpha=0.0) == pytest.approx(8.0)
    assert loss(scene, event, beta=0.0) == pytest.approx(1.0)
    with pytest.raises(ValueError, match="not 'median'"):
        loss(scene, event, reduction="median")


def test_constant_weights_and_their_gradients_by_hand():
    batch = some_batch(6)
    weights = {"active_weight": 0.7, "inactive_weight": 0.2}

    @jax.jit
    def loss(scene_logits, event_logits, scene_weight, event_weights):
        scene = focal_loss.scene_sums(scene_logits, batch["scenes"], batch["clip_mask"], eta=0.0, weight=scene_weight)
        event = focal_loss.event_sums(event_logits, batch["active"], batch["frame_mask"], gamma=0.0, zeta=0.0, **event_weights)
        total = focal_loss.multi_focal_loss(scene, event, alpha=0.5, beta=2.0, reduction="mean")
        return total, (scene, event)

    logits = batch["scene_logits"], batch["event_logits"]
    (got, (scene, event)), gradients = jax.value_and_grad(loss, (0, 1), has_aux=True)(*logits, 0.3, weights)
    x, on = np.float64(logits[1]), np.asarray(batch["active"])
    mask = np.broadcast_to(np.asarray(batch["frame_mask"])[..., None], on.shape)
    y, weight = 1 / (1 + np.exp(-x)), np.where(on, 0.7, 0.2) * mask
    y_true = _softmax(np.float64(logits[0]))[np.arange(4), batch["scenes"]][[0, 1, 3]]
    plain = -np.where(on, np.log(y), np.log(1 - y))
    assert float(got) == pytest.approx(0.5 * 0.3 * -np.log(y_true).sum() / 3 + 2 * (weight * plain).sum() / mask.sum(), rel=1e-5)
    one_hot = np.eye(4)[np.asarray(batch["scenes"])]
    scene_gradient = 0.5 * 0.3 * (_softmax(np.float64(logits[0])) - one_hot) * np.asarray(batch["clip_mask"])[:, None] / 3
    np.testing.assert_allclose(gradients[0], scene_gradient, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(gradients[1], 2 * weight * (y - on) / mask.sum(), rtol=1e-5, atol=1e-8)
    # The weights are loss multipliers.
    assert float(scene["loss"] / scene["plain_loss"]) == pytest.approx(0.3)
    ratios = [event[f"{kind}_loss"] / event[f"{kind}_plain_loss"] for kind in ("active", "inactive")]
    assert list(map(float, ratios)) == pytest.approx([0.7, 0.2])


def test_sum_is_mean_times_frames_times_events():
    """With the paper's 500 frames and 25 events, the reductions differ by a factor of 12,500 on the event loss."""
    rng = np.random.default_rng(3)
    logits, active = jnp.asarray(rng.normal(size=(2, 500, 25)), jnp.float32), jnp.asarray(rng.random((2, 500, 25)) < 0.1)
    event = focal_loss.event_sums(logits, active, jnp.ones((2, 500), bool), **FOCUS)
    mean, total = (
        focal_loss.multi_focal_loss(None, event, alpha=1.0, beta=1.0, reduction=reduction) for reduction in ("mean", "sum")
    )
    assert float(total / mean) == pytest.approx(12_500, rel=1e-5)


def test_a_fully_masked_batch_has_loss_zero():
    batch = some_batch(4)
    scene = focal_loss.scene_sums(batch["scene_logits"], batch["scenes"], jnp.zeros(4, bool), eta=0.5)
    event = focal_loss.event_sums(batch["event_logits"], batch["active"], jnp.zeros((4, 6), bool), **FOCUS)
    assert focal_loss.multi_focal_loss(scene, event, alpha=1.0, beta=1.0, reduction="mean") == 0
    assert not any(jax.tree.leaves((scene, event)))


def test_focusing_parameters_may_be_traced():
    batch = some_batch(5)
    jitted = jax.jit(
        lambda gamma, zeta: focal_loss.event_focal_terms(batch["event_logits"], batch["active"], gamma=gamma, zeta=zeta)[0]
    )
    for gamma, zeta in ((0.0, 0.0), (1.0, 0.0625)):
        want = focal_loss.event_focal_terms(batch["event_logits"], batch["active"], gamma=gamma, zeta=zeta)[0]
        np.testing.assert_allclose(jitted(gamma, zeta), want, rtol=1e-6)


@pytest.mark.parametrize("exponent", [0.0, 0.0625, 1.0])
def test_gradients_with_traced_focusing_parameters_are_right_for_saturated_logits(exponent):
    """The compiler can't special-case a traced 0: 0 times the logarithm of an underflowed probability must stay 0."""
    logits = jnp.asarray([[200.0, -200.0, 199.0], [-200.0, 200.0, 200.0], [200.0, 200.0, 200.0], [1.0, -2.0, 0.5]])
    scenes, active = jnp.asarray([0, 0, 1, 2]), jnp.asarray([[True, False, True]] * 2 + [[False, True, False]] * 2)

    def total(logits, exponent):
        scene = focal_loss.scene_focal_terms(logits, scenes, eta=exponent)[0]
        event = focal_loss.event_focal_terms(logits, active, gamma=exponent, zeta=exponent)[0]
        return scene.sum() + event.sum()

    gradient = jax.jit(jax.grad(total))(logits, exponent)
    e, want = mpmath.mpf(exponent), []
    for row, scene, on in zip(logits, scenes, active, strict=True):
        exact = [mpmath.mpf(float(x)) for x in row]
        event = [printed_event_gradient(x, bool(z), e, e) for x, z in zip(exact, on, strict=True)]
        want += [a + b for a, b in zip(printed_scene_gradient(exact, int(scene), e), event, strict=True)]
    assert_close(gradient, want, 1e-5)
