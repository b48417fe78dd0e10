"""The paper's scene classifier alone: shared layers and scene head, cross-entropy with weight 1 (Eq. 1).

python -m mfl_jax.main --config=configs/cnn_asc.py --config.manual_dir=DIR
"""

from mfl_jax.configs import default


def get_config(arg=""):
    """Returns the config; `quick` shrinks it to minutes on two cores."""
    config = default.get_config()
    config.name = "cnn_asc"
    config.tasks = ("scene",)
    config.alpha = 1.0
    return default.shrunk(config, arg)
