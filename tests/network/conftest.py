"""The forms of the network's operations."""

import functools

import jax
import pytest

from mfl_jax.network import gru_kernel, gru_recurrence


@pytest.fixture(params=["cpu", "gpu"])
def form(request, monkeypatch) -> str:
    """Selects the forms of CPUs, or those of GPUs with interpreted kernels. TPUs run the forms of GPUs, and the scan."""
    if request.param == "gpu":
        monkeypatch.setattr(jax.lax, "platform_dependent", lambda *arrays, default, **others: default(*arrays))
        monkeypatch.setattr(gru_recurrence, "_on_each_platform", interpret_kernel)
    return request.param


def interpret_kernel(scan, fused, *, units):
    """Stands in for `gru_recurrence._on_each_platform`."""
    assert gru_kernel.suits(units)
    return functools.partial(fused, interpret=True)
