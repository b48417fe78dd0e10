"""Ablation of configs/improved.py: each technique alone, and all techniques but one. Uses only the development folds.

python -m mfl_jax.experiment --config=configs/improved_ablation.py --config.manual_dir=DIR --workdir=runs/improved_ablation
python -m mfl_jax.experiment --config=configs/improved_ablation.py:quick --workdir=runs/improved_ablation_quick

One seed: each technique is in half of the 32 runs. It also chooses the thresholds for configs/improved_final.py.
"""

from mfl_jax.configs import default, improved, proposed


def get_config(arg=""):
    """Returns the experiment; `quick` shrinks it to minutes on two cores."""
    config = default.experiment("improved_ablation", [proposed, improved])
    focal = config.systems.proposed.to_dict()

    def combine(names):
        return focal | {field: value for name in names for field, value in improved.TECHNIQUES[name].items()}

    for name in improved.TECHNIQUES:
        config.systems[name] = combine([name])
        config.systems[f"without_{name}"] = combine(other for other in improved.TECHNIQUES if other != name)
    config.folds = True
    config = default.shrunk_experiment(config, arg)
    config.seeds = 1
    config.note = config.note.replace("seeds 3", "seeds 1")
    return config
