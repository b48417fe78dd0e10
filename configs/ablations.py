"""Ablations of the multi-focal loss: its parts one by one, constant weights, and other ways to balance the two tasks.

python -m mfl_jax.experiment --config=configs/ablations.py --config.manual_dir=DIR --workdir=runs/ablations

proposed_eta1 is the proposed system with eta 1.0: the paper's conditions and tables name 0.5, its running text names 1.0 once.
"""

from mfl_jax.configs import conventional_mtl, default, proposed


def get_config(arg=""):
    """Returns the experiment; `quick` shrinks it to minutes on two cores."""
    config = default.experiment("ablations", [conventional_mtl, proposed])
    focal = config.systems.proposed.to_dict()
    more = {
        "focal_scene_only": {"eta": focal["eta"]},
        "focal_event_only": {"gamma": focal["gamma"], "zeta": focal["zeta"]},
        "focal_symmetric": {**focal, "zeta": focal["gamma"]},
        # Plain losses times the mean loss multipliers of the finished proposed runs: the same balance, but not adapted.
        "constant_weights": {"weights_from": "proposed"},
        # The equations as printed: summed over 500 frames and 25 events, so the same alpha weighs 12,500 times less.
        "proposed_sum": {**focal, "reduction": "sum"},
        "conventional_sum": {"reduction": "sum"},
        # Both start from equal weights and learn how to balance the tasks.
        "uncertainty": {"balance": "uncertainty", "alpha": 1.0},
        "dwa": {"balance": "dwa", "alpha": 1.0},
        "conventional_equal": {"alpha": 1.0},
        "proposed_eta1": {**focal, "eta": 1.0},
    }
    config.systems.update(more)
    return default.shrunk_experiment(config, arg)
