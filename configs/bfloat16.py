"""Compares the proposed system in float32 and in bfloat16, on the same seeds.

python -m mfl_jax.experiment --config=configs/bfloat16.py --config.manual_dir=DIR --workdir=runs/bfloat16
python -m mfl_jax.experiment --config=configs/bfloat16.py:quick --workdir=runs/bfloat16_quick     # an hour on two cores
"""

from mfl_jax.configs import default, proposed


def get_config(arg=""):
    """Returns the experiment; `quick` shrinks it to five seeds of `proposed.py:quick`."""
    config = default.experiment("bfloat16", [proposed])
    config.systems.proposed_bfloat16 = {**config.systems.proposed.to_dict(), "compute": "bfloat16"}
    config = default.shrunk(config, arg)
    if arg:
        config.seeds = 5
    return config
