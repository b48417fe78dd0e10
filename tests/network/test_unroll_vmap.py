"""The vmap rule that calls a function once per network."""

import jax
import jax.numpy as jnp
import numpy as np

from mfl_jax.network.unroll_vmap import unroll_vmap


def test_the_function_sees_one_entry_at_a_time():
    shapes = []

    def scale(x, weight):
        shapes.append((x.shape, weight.shape))
        return {"product": x * weight, "sum": jnp.sum(x)}

    x, weight = jnp.arange(12.0).reshape(3, 4), jnp.arange(4.0)
    results = jax.vmap(unroll_vmap(scale), (0, None))(x, weight)
    # Tracing for the rule calls the function too, always with the shapes of one entry.
    assert set(shapes) == {((4,), (4,))}
    np.testing.assert_allclose(results["product"], x * weight, rtol=1e-6)
    np.testing.assert_allclose(results["sum"], x.sum(1), rtol=1e-6)


def test_nested_vmap_unrolls_every_axis():
    x, weight = jnp.arange(12.0).reshape(2, 3, 2), jnp.arange(6.0).reshape(3, 2)
    function = unroll_vmap(lambda x, weight: x @ weight)
    results = jax.vmap(jax.vmap(function), (0, None))(x, weight)
    np.testing.assert_allclose(results, (x * weight).sum(-1), rtol=1e-6)
    text = jax.jit(jax.vmap(jax.vmap(function), (0, None))).lower(x, weight).as_text()
    assert text.count("stablehlo.dot_general") == 6
