"""The recurrence and its gradients in every form against a plain scan that JAX differentiates; programs for CUDA GPUs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.compile_only.target import lower_for_gpu
from mfl_jax.network import gru_kernel, gru_recurrence

pytestmark = pytest.mark.lightly_optimised

# Frames, clips, units: one frame, one clip, exact multiples of the kernel's sizes, and sizes that it pads.
SIZES = [*(pytest.param(size, marks=pytest.mark.ci_only) for size in ((1, 1, 1), (6, 16, 32))), (5, 17, 33)]


def arrays(frames, clips, units, seed=0):
    """Input products, recurrent kernel and bias, and a cotangent of the states."""
    rng = np.random.default_rng(seed)
    shapes = (frames, 2, clips, 3 * units), (2, units, 3 * units), (2, 3 * units), (frames, 2, clips, units)
    scales = 1, units**-0.5, 1, 1
    return [jnp.asarray(scale * rng.standard_normal(shape), jnp.float32) for shape, scale in zip(shapes, scales, strict=True)]


def plain_scan(projected, kernel, bias):
    """The equations of `BiGRU`, differentiated by JAX."""
    units = kernel.shape[1]

    def step(state, projected_t):
        recurrent = jnp.einsum("dbu,dug->dbg", state, kernel, precision="highest") + bias[:, None]
        gates = jax.nn.sigmoid(projected_t[..., : 2 * units] + recurrent[..., : 2 * units])
        new = jnp.tanh(projected_t[..., 2 * units :] + gates[..., :units] * recurrent[..., 2 * units :])
        state = (1 - gates[..., units:]) * new + gates[..., units:] * state
        return state, state

    return jax.lax.scan(step, jnp.zeros((*projected.shape[1:3], units)), projected)[1]


def value_and_gradients(recurrence, projected, kernel, bias, cotangent):
    states, gradients_of = jax.vjp(recurrence, projected, kernel, bias)
    return states, *gradients_of(cotangent)


def assert_equal(ours, expected, tolerance=1e-5):
    for name, array, other in zip(("states", "projected", "kernel", "bias"), ours, expected, strict=True):
        np.testing.assert_allclose(array, other, rtol=0, atol=tolerance * max(np.abs(other).max(), 1e-3), err_msg=name)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_states_and_gradients_equal_those_of_a_plain_scan(size, form):
    inputs = arrays(*size)
    assert_equal(value_and_gradients(gru_recurrence.recurrence, *inputs), value_and_gradients(plain_scan, *inputs))
    np.testing.assert_allclose(gru_recurrence.recurrence(*inputs[:3]), plain_scan(*inputs[:3]), atol=1e-6)


def test_errors_do_not_grow_over_five_hundred_frames(form):
    inputs = arrays(500, 2, 4)
    assert_equal(value_and_gradients(gru_recurrence.recurrence, *inputs), value_and_gradients(plain_scan, *inputs), 2e-5)


def test_several_networks_at_once_equal_each_alone(form):
    each = [arrays(6, 3, 5, seed) for seed in range(2)]
    function = functools.partial(value_and_gradients, gru_recurrence.recurrence)
    together = jax.jit(jax.vmap(function))(*map(jnp.stack, zip(*each, strict=True)))
    for network, alone in enumerate(each):
        assert_equal([array[network] for array in together], value_and_gradients(plain_scan, *alone))


def test_extreme_inputs_give_finite_gradients(form):
    projected, kernel, bias, cotangent = arrays(6, 3, 5)
    inputs = projected * 1e4, kernel, bias, cotangent
    assert_equal(value_and_gradients(gru_recurrence.recurrence, *inputs), value_and_gradients(plain_scan, *inputs))


def lower(function, *inputs, platform="cuda"):
    """The text of a program for another platform."""
    return lower_for_gpu(lambda: jax.jit(function).trace(*inputs).lower(lowering_platforms=(platform,))).as_text()


@pytest.mark.parametrize("mapped", [False, True], ids=["one network", "several networks"])
@pytest.mark.parametrize("size", [(500, 64, 32), (50, 5, 4)], ids=str)
def test_a_gpu_runs_one_kernel_per_pass(size, mapped):
    function, inputs = functools.partial(value_and_gradients, gru_recurrence.recurrence), arrays(*size)
    if mapped:
        function, inputs = jax.vmap(function), [jnp.stack([array] * 3) for array in inputs]
    text = lower(function, *inputs)
    assert text.count("custom_call @__gpu$xla.gpu.triton") == 2 and "stablehlo.while" not in text
    assert "triton" not in lower(function, *inputs, platform="tpu") + lower(function, *inputs, platform="cpu")


def test_a_layer_that_is_too_wide_keeps_the_scan():
    inputs = arrays(50, 2, gru_kernel.MOST_UNITS + 1)
    text = lower(functools.partial(value_and_gradients, gru_recurrence.recurrence), *inputs)
    assert "triton" not in text and "stablehlo.while" in text


def test_portable_programs_keep_the_scan():
    with gru_recurrence.portable():
        text = lower(lambda *inputs: gru_recurrence.recurrence(*inputs), *arrays(50, 2, 4)[:3])
    assert "triton" not in text and "stablehlo.while" in text


class Gpu:
    """Stands in for a device."""

    def __init__(self, capability="9.0", version="PJRT C API\ncuda 13000"):
        self.client, self.compute_capability = self, capability
        self.platform_version = version


@pytest.mark.parametrize(
    ("gpu", "obstacle"),
    [(Gpu(), None), (Gpu("7.5"), "compute capability is 7.5"), (Gpu("gfx90a", "rocm 60300"), "for NVIDIA GPUs")],
    ids=["H100", "T4", "ROCm"],
)
def test_gpus_that_can_not_run_the_kernel_keep_the_scan_and_say_so_once(gpu, obstacle, monkeypatch, capsys):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "local_devices", lambda **_: [gpu])
    gru_recurrence._kernels_run_here.cache_clear()
    try:
        for _ in range(2):
            text = lower(lambda *inputs: gru_recurrence.recurrence(*inputs), *arrays(50, 2, 4)[:3])
    finally:
        gru_recurrence._kernels_run_here.cache_clear()
    assert ("triton" in text) == (obstacle is None)
    warnings = capsys.readouterr().err.splitlines()
    assert [obstacle in line for line in warnings] == [True] * (obstacle is not None)


def test_without_triton_the_scan_stays(monkeypatch):
    """On a machine with a GPU, the test above has the message; programs for a GPU elsewhere need no message."""
    monkeypatch.setattr(gru_kernel, "triton", None)
    assert "triton" not in lower(lambda *inputs: gru_recurrence.recurrence(*inputs), *arrays(50, 2, 4)[:3])
    assert "no jax.experimental.pallas.triton" in gru_kernel.find_obstacle(Gpu())
