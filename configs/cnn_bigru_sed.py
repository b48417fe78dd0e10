"""The paper's event detector alone: shared layers and event head, binary cross-entropy with weight 1 (Eq. 2).

python -m mfl_jax.main --config=configs/cnn_bigru_sed.py --config.manual_dir=DIR
"""

from mfl_jax.configs import default


def get_config(arg=""):
    """Returns the config; `quick` shrinks it to minutes on two cores."""
    config = default.get_config()
    config.name = "cnn_bigru_sed"
    config.tasks = ("event",)
    return default.shrunk(config, arg)
