"""Compiles the steps of the full network for TPUs and GPUs on a machine without them, and counts kernels and bytes.

python -m benchmarks.compile_only [--targets=v5e:2x2,h100] [--steps=train,eval,member,predict] [--batch_size=64] [--channels=128]
    [--compute=bfloat16] [--members=10]

A target is `h100`, or a TPU generation and the chips of a slice: v4:2x2x1, v5e:2x2, v5p:2x2x1, v6e:2x2, or v5e:16x16 for 256
chips on 64 hosts. Each compiles in a process of its own. TPUs need libtpu in the version that `jax[tpu]` names. GPUs need the
wheels of `jax[cuda13]`. Neither needs a driver. Every step compiles for one chip, the training step also for all chips of a
slice.

kernels      kernels of a GPU's program; those of a loop count once per iteration
gflop        floating-point operations by the compiler's count
gb_accessed  bytes by the compiler's count, including copies within the chip
gb_hbm       operands and results outside on-chip memory, without those of loops
gb_loops     the same of loops, once per iteration
gb_temporary memory besides arguments and results
all_reduces  sums over the chips
"""

import json
import subprocess
import sys

import jax

from benchmarks import timing
from benchmarks.compile_only import target as compiling
from mfl_jax.errors import InputError


def results(
    *,
    targets=("v5e:2x2", "h100"),
    steps=compiling.STEPS,
    batch_size=64,
    channels=128,
    compute="bfloat16",
    members=10,
) -> list[dict]:
    """One entry per target, step and number of chips.

    Raises:
      InputError: a target or a step is unknown, or its compiler is missing.
    """
    jax.config.update("jax_platforms", "cpu")  # nothing runs on the target's plugin
    entries = []
    unknown = set(steps) - set(compiling.STEPS)
    if unknown:
        raise InputError(f"flag --steps: {', '.join(sorted(unknown))} not among {', '.join(compiling.STEPS)}")
    for name in targets:
        compiling.check_target(name)
        options = {"steps": steps, "batch_size": batch_size, "channels": channels, "compute": compute, "members": members}
        process = subprocess.run(
            [sys.executable, "-m", compiling.__name__, name, json.dumps(options)],
            env=compiling.make_environment(name),
            capture_output=True,
            text=True,
        )
        if process.returncode:
            raise InputError(f"{name}: {(process.stderr.strip() or 'no message').splitlines()[-1]}")
        entries += json.loads(process.stdout.splitlines()[-1])
    return entries


if __name__ == "__main__":
    timing.run(results)
