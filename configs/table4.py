"""Tables IV and V of the paper: its four systems, ten seeds each.

python -m mfl_jax.experiment --config=configs/table4.py --config.manual_dir=DIR --workdir=runs/table4
python -m mfl_jax.experiment --config=configs/table4.py:quick --workdir=runs/table4_quick         # minutes on two cores
"""

from mfl_jax.configs import cnn_asc, cnn_bigru_sed, conventional_mtl, default, proposed


def get_config(arg=""):
    """Returns the experiment; `quick` shrinks it to minutes on two cores."""
    config = default.experiment("table4", [cnn_asc, cnn_bigru_sed, conventional_mtl, proposed])
    return default.shrunk_experiment(config, arg)
