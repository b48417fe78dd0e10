"""configs/improved.py against the proposed system, ten paired seeds, at thresholds that configs/improved_ablation.py chose.

python -m mfl_jax.experiment --config=configs/improved_final.py --config.manual_dir=DIR --workdir=runs/improved_final
python -m mfl_jax.experiment --config=configs/improved_final.py:quick --workdir=runs/improved_final_quick

Run configs/improved_ablation.py first. This experiment is the only one to score the evaluation split.
"""

from mfl_jax.configs import default, improved, proposed


def get_config(arg=""):
    """Returns the experiment; `quick` shrinks it to minutes on two cores."""
    config = default.experiment("improved_final", [proposed, improved])
    config = default.shrunk_experiment(config, arg)
    config.thresholds_from = f"runs/{config.name.replace('final', 'ablation')}"
    return config
