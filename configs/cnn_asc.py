"""The paper's scene classifier alone: shared stack and scene head, cross-entropy at weight 1 (Eq. 1).

python -m mfl_jax.main --config=configs/cnn_asc.py --config.manual_dir=DIR
"""

from configs import default


def get_config(arg=""):
    """`quick` for minutes on two cores."""
    config = default.get_config()
    config.name = "cnn_asc"
    config.tasks = ("scene",)
    config.alpha = 1.0
    return default.shrunk(config, arg)
