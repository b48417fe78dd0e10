"""The proposed system with three options that may detect more events on the same recordings; docs/beyond.md has the evidence.

python -m mfl_jax.main --config=configs/improved.py --config.manual_dir=DIR
launch/local.sh --config=configs/improved.py:quick                             # minutes on two cores
"""

from mfl_jax.configs import proposed

TECHNIQUES = {
    "prior": {"prior_bias": 1.0},
    "rare": {"rare_event_sampling": 0.5},
    "crops": {"random_crops": 1.0},
}
"""Name -> fields that differ from the proposed system."""


def get_config(arg=""):
    """Returns the config; `quick` shrinks it to minutes on two cores."""
    config = proposed.get_config(arg)
    config.name = config.name.replace("proposed", "improved")
    for fields in TECHNIQUES.values():
        config.update(fields)
    return config
