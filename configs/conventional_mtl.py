"""The paper's conventional multitask system: cross-entropy and binary cross-entropy with fixed weights (Eq. 3).

python -m mfl_jax.main --config=configs/conventional_mtl.py --config.manual_dir=DIR
"""

from mfl_jax.configs import default


def get_config(arg=""):
    """Returns the config; `quick` shrinks it to minutes on two cores."""
    config = default.get_config()
    config.name = "conventional_mtl"
    return default.shrunk(config, arg)
