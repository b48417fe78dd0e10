"""The pieces of the benchmark: what computes each, its time limit, and the environment of its process."""

import dataclasses
import importlib
from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks.accelerator.setting import Setting


@dataclasses.dataclass(frozen=True)
class Piece:
    """A process of the benchmark.

    Attributes:
      module: of this package; its function `measure(setting, **arguments)` yields figures, each with the name of its `piece`.
      limit_s: seconds after which the process is ended.
      arguments: of `measure`.
      environment: variables of the process.
      gpu_flags: added to XLA_FLAGS on GPUs.
    """

    module: str
    limit_s: int
    arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)
    gpu_flags: str = ""

    def measure(self, setting: Setting) -> Iterator[dict]:
        """Computes the figures in this process."""
        return importlib.import_module(f"benchmarks.accelerator.{self.module}").measure(setting, **self.arguments)


def _torch(variant: str, *, forward: bool = False) -> Piece:
    # JAX only makes the parameters here, and must leave the accelerator to PyTorch.
    return Piece("torch_step", 100, {"variant": variant, "forward": forward}, {"JAX_PLATFORMS": "cpu"})


UNTIMED = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
PIECES = {
    "circumstances": Piece("circumstances", 60),
    "step_bfloat16": Piece("training_step", 90, {"compute": "bfloat16", "forward": True}),
    "step_float32": Piece("training_step", 90, {"compute": "float32"}),
    "torch_eager": _torch("eager"),
    "torch_channels_last": _torch("channels_last", forward=True),
    "torch_compile": _torch("compile"),
    "torch_compile_channels_last": _torch("compile_channels_last", forward=True),
    "torch_reduce_overhead": _torch("reduce_overhead"),
    "torch_reduce_overhead_channels_last": _torch("reduce_overhead_channels_last"),
    "epoch": Piece("epoch_of_main", 90),
    "group": Piece("epoch_of_group", 120),
    # A kernel that a CUDA graph starts does not name the operation it belongs to.
    "kernels": Piece("kernels", 90, gpu_flags="--xla_gpu_enable_command_buffer="),
    "gradients": Piece("gradients", 90, environment=UNTIMED),
    "same_bits": Piece(
        "same_bits", 120, environment={**UNTIMED, "JAX_ENABLE_COMPILATION_CACHE": "false"},
        gpu_flags="--xla_gpu_deterministic_ops=true",
    ),
    "digest": Piece("digest", 60),
}  # fmt: skip

STAGES = (
    ("circumstances",),
    ("step_bfloat16",),
    ("step_float32",),
    ("torch_compile_channels_last",),
    ("torch_channels_last",),
    ("epoch",),
    ("group",),
    ("kernels",),
    ("gradients", "same_bits"),
    ("torch_reduce_overhead_channels_last",),
    ("torch_compile",),
    ("torch_reduce_overhead",),
    ("torch_eager",),
)
"""The order of the pieces; the last ones are left out if time runs out. Those of one stage are not timed and share a GPU."""
