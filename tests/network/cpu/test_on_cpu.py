"""The choice between the CPU form and the stock form of an operation, by platform and by shape."""

import jax
import jax.numpy as jnp

from mfl_jax.network.cpu import on_cpu


def cpu_form(x):
    return {"y": jnp.sin(x["x"])}


def stock_form(x):
    return {"y": jnp.cos(x["x"])}


def lowered(function, platform, **arrays):
    return jax.jit(function).trace(arrays).lower(lowering_platforms=(platform,)).as_text()


def test_only_cpus_run_the_cpu_form():
    choose = on_cpu(cpu_form, elsewhere=stock_form)
    for platform, operation, other in (("cpu", "sine", "cosine"), ("cuda", "cosine", "sine"), ("tpu", "cosine", "sine")):
        text = lowered(choose, platform, x=jnp.ones(3))
        assert f"stablehlo.{operation} " in text and f"stablehlo.{other} " not in text, platform


def test_arrays_that_do_not_suit_keep_the_stock_form():
    choose = on_cpu(cpu_form, elsewhere=stock_form, suits=lambda x: x["x"].size > 3)
    assert "stablehlo.cosine " in lowered(choose, "cpu", x=jnp.ones(3))
    assert "stablehlo.sine " in lowered(choose, "cpu", x=jnp.ones(4))
