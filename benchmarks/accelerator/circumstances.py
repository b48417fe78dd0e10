"""The machine, its software and the code."""

from collections.abc import Iterator

import jax

from benchmarks import timing
from benchmarks.accelerator.setting import Setting
from mfl_jax.runtime import history


def measure(setting: Setting) -> Iterator[dict]:
    """Describes them; `platform` is cpu, gpu or tpu."""
    environment = timing.describe_environment("numpy", "orbax-checkpoint", "torch")
    yield {"piece": "circumstances", **environment, "platform": jax.devices()[0].platform, "code": history.code_version()}
