"""x"""

from mfl_jax.configs import default, proposed


def get_config(arg=""):
    config = default.experiment("improved_ablation", [proposed])
    focal = config.systems.proposed.to_dict()
    aug = lambda **k: {"augmentations": {**config.augmentations.to_dict(), **k}}
    more = {
        "cosine": {**focal, "learning_rate_decay": "cosine"},
        "ema": {**focal, "ema_decay": 0.99},
    }
    config.systems.update(more)
    config.folds = True
    return default.shrunk_experiment(config, arg)
