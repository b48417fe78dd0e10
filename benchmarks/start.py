"""How long a user waits: for --help, for the import, and for the first training step, with and without compiled programs on disk.

python -m benchmarks.start [--channels=128] [--batch_size=16] [--rounds=3]

Each is a process of its own. `ratio` is the first step without the compilation cache over that with it.
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


def python(*arguments: str, check: bool = True, **environment: str) -> None:
    """Runs a Python process to its end, which must be a good one with `check`."""
    subprocess.run([sys.executable, *arguments], check=check, stdout=subprocess.DEVNULL, env={**os.environ, **environment})


def measure(clips: int, channels: int, rounds: int) -> dict:
    """Times the processes."""
    first_step = FIRST_STEP.format(clips, channels)
    with tempfile.TemporaryDirectory() as cache:
        cached = {"JAX_COMPILATION_CACHE_DIR": cache, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
        sides = {
            "interpreter": lambda: python("-c", "pass"),
            # absl ends --help with a status that is not 0.
            "help": lambda: python("-m", "mfl_jax.main", "--help", check=False),
            "help_of_experiment": lambda: python("-m", "mfl_jax.experiment", "--help", check=False),
            "import_jax": lambda: python("-c", "import jax"),
            "import_train": lambda: python("-c", "import mfl_jax.training.loop"),
            "first_step": lambda: python("-c", first_step, JAX_ENABLE_COMPILATION_CACHE="false"),
            "first_step_cached": lambda: python("-c", first_step, **cached),
        }
        times = timing.alternate(sides, rounds)
    ratio = times["first_step"]["median_s"] / times["first_step_cached"]["median_s"]
    return {"batch_size": clips, "channels": channels, **times, "ratio": ratio}


def results(*, channels=128, batch_size=16, rounds=3) -> list[dict]:
    """An entry a setting."""
    return [measure(batch_size, channels, rounds)]


if __name__ == "__main__":
    timing.run(results)
