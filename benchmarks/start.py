"""Start-up times: --help, imports, and the first training step with and without a compilation cache.

python -m benchmarks.start [--channels=128] [--batch_size=16] [--rounds=3]

Each runs in a separate process. `ratio` is the time of the first step without the compilation cache over the time with it.
"""

import os
import subprocess
import sys
import tempfile

from benchmarks import timing

FIRST_STEP = """
from benchmarks import workload
from mfl_jax.training import setup
config = workload.make_config(batch_size={}, channels={})
print(float(workload.make_stepper(setup.build_run(config, workload.make_dataset()))()))
"""


def run_python(*arguments: str, **environment: str) -> None:
    """Runs a Python process; raises CalledProcessError if it fails."""
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL, env={**os.environ, **environment})


def measure(clips: int, channels: int, rounds: int) -> dict:
    """Times the processes."""
    first_step = FIRST_STEP.format(clips, channels)
    with tempfile.TemporaryDirectory() as cache:
        cached = {"JAX_COMPILATION_CACHE_DIR": cache, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
        sides = {
            "interpreter": lambda: run_python("-c", "pass"),
            "help": lambda: run_python("-m", "mfl_jax.main", "--help"),
            "help_of_experiment": lambda: run_python("-m", "mfl_jax.experiment", "--help"),
            "import_jax": lambda: run_python("-c", "import jax"),
            "import_load": lambda: run_python("-c", "import mfl_jax.inference.trained_model"),
            "import_train": lambda: run_python("-c", "import mfl_jax.training.loop"),
            "first_step": lambda: run_python("-c", first_step, JAX_ENABLE_COMPILATION_CACHE="false"),
            "first_step_cached": lambda: run_python("-c", first_step, **cached),
        }
        times = timing.alternate(sides, rounds)
    ratio = times["first_step"]["median_s"] / times["first_step_cached"]["median_s"]
    return {"batch_size": clips, "channels": channels, **times, "ratio": ratio}


def results(*, channels=128, batch_size=16, rounds=3) -> list[dict]:
    """Returns one entry."""
    return [measure(batch_size, channels, rounds)]


if __name__ == "__main__":
    timing.run(results)
