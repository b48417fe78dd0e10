"""Fig. 2 of the paper: the conventional and the proposed system, with alpha (the weight of the scene loss) from 1e-4 to 1.

The single-task systems have no alpha; the figure shows them as lines.

python -m mfl_jax.experiment --config=configs/figure2.py --config.manual_dir=DIR --workdir=runs/figure2
python -m mfl_jax.experiment --config=configs/figure2.py:quick --workdir=runs/figure2_quick       # minutes on two cores
"""

from mfl_jax.configs import cnn_asc, cnn_bigru_sed, conventional_mtl, default, proposed


def get_config(arg=""):
    """Returns the experiment; `quick` shrinks it to minutes on two cores."""
    config = default.experiment("figure2", [conventional_mtl, proposed, cnn_asc, cnn_bigru_sed])
    config.alphas = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
    return default.shrunk_experiment(config, arg)
