"""The paper's conventional multitask system: both tasks, cross-entropy and binary cross-entropy at a constant balance (Eq. 3).

python -m mfl_jax.main --config=configs/conventional_mtl.py --config.manual_dir=DIR
"""

from configs import default


def get_config(arg=""):
    """`quick` for minutes on two cores."""
    config = default.get_config()
    config.name = "conventional_mtl"
    return default.shrunk(config, arg)
