"""The paper's proposed system: both tasks, multi-focal loss (Eqs. 5 and 6).

python -m mfl_jax.main --config=configs/proposed.py --config.manual_dir=DIR     # the paper's data and conditions
launch/local.sh --config=configs/proposed.py:quick                             # minutes on two cores
"""

from mfl_jax.configs import default


def get_config(arg=""):
    """Returns the config; `quick` shrinks it to minutes on two cores."""
    config = default.get_config()
    config.name = "proposed"
    config.eta, config.gamma, config.zeta = 0.5, 1.0, 0.0625
    return default.shrunk(config, arg)
