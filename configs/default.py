"""Every field of a config, its unit, and why it has the value it has.

The four systems of the paper are this file and a few lines: proposed.py, conventional_mtl.py, cnn_asc.py, cnn_bigru_sed.py. Any
field can be set on the command line: `--config.alpha=0.01 --config.dataset=soundscapes/full`.
"""

import ml_collections


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """The paper's conditions, plain losses on both tasks; `quick` shrinks them to minutes on two cores."""
    config = ml_collections.ConfigDict()
    config.name = "default"  # names the run and, by default, its work directory runs/<name>

    # Data.
    config.dataset = "tut_scenes_events/full"  # builder/config: soundscapes/full, annotated_audio/any_name ...
    config.data_dir = "data"  # where prepared data sets lie
    config.manual_dir = ""  # recordings and label lists to prepare from, if the data set is not prepared yet
    config.beam = ""  # who prepares: the threads of this machine; or the options of an Apache Beam pipeline (datasets/README.md)
    config.validation = "none"  # none: the last epoch counts, as in the paper; fold1 ... fold4: the best on that held-out fold
    # How annotated_audio prepares; the other builders lay it down themselves. See MelConfig in mfl_jax/data/mel_spectrogram.py.
    config.audio = ml_collections.ConfigDict()
    config.audio.clip_s = 10.0  # seconds
    config.audio.sample_rate_hz = 44_100
    config.audio.window_samples = 1764  # 40 ms
    config.audio.hop_samples = 882  # 20 ms
    config.audio.fft_samples = 2048
    config.audio.mel_bins = 64
    config.audio.low_hz = 0.0
    config.audio.high_hz = 22_050.0

    # Network (Table II).
    config.tasks = ("scene", "event")
    config.channels = 128  # of the shared convolutions; the scene head has twice as many
    config.hidden = 32  # GRU units a direction, and units of the dense layers
    config.slope = 0.01  # of the leaky ReLU below zero; the paper does not say
    config.dropout = 0.0  # after each convolution; the paper does not mention any

    # Loss (Eqs. 3, 5, 6).
    config.alpha = 0.001  # weight of the scene loss
    config.beta = 1.0  # weight of the event loss
    config.eta = 0.0  # focus of the scene loss; 0 is plain cross-entropy
    config.gamma = 0.0  # focus on active frames; with zeta 0, plain binary cross-entropy
    config.zeta = 0.0  # focus on inactive frames
    # fixed: alpha and beta as they are. uncertainty, dwa: multiplied by weights that change (mfl_jax/training/task_balance.py).
    config.balance = "fixed"
    config.reduction = "mean"  # or "sum", the equations as printed: then alpha means 12,500 times less

    # Training.
    config.learning_rate = 2e-4  # of RAdam
    config.batch_size = 64  # clips, over all devices
    config.epochs = 300
    config.seed = 0  # of the parameters, the order of the clips and the dropout
    config.threshold = 0.5  # an event is detected at this probability (Table III)
    config.matmul_precision = "default"  # or high, highest: float32 products are cut short on TPU and newer GPUs by default
    config.compute = "float32"  # of convolutions and activations; or bfloat16, for speed on TPUs and GPUs
    config.accelerator = "auto"  # cpu, gpu or tpu; auto: the fastest, and no CPU where JAX was installed for something faster
    config.devices = 0  # devices of this machine to use; 0 is all, and over several hosts all of each
    config.keep_every = 0  # epochs; the checkpoint of every so many is kept for good, beside the last and the best; 0: none

    # Evaluation and tuning. The paper's scores are those of frames; the others are reported beside them.
    config.scores = "frame"  # and, with commas, segment, event, psds: by sed_scores_eval and sed_eval (extra eval)
    config.postprocess = "none"  # of the events of those other scores; or tuned: by what --mode=tune chose
    config.tune = "frame"  # the F-score that --mode=tune raises for each event: frame, or segment (1 s)

    config.note = ""  # what was shrunk, printed at the start
    return shrunk(config, arg)


def shrunk(config: ml_collections.ConfigDict, arg: str) -> ml_collections.ConfigDict:
    """Shrinks a config to minutes on two cores if `arg` is `quick`, and says so in `note`."""
    if not arg:
        return config
    if arg != "quick":
        raise ValueError(f"after the colon of a config comes `quick` or nothing, not {arg!r}")
    smaller = {
        "dataset": "soundscapes/quick",
        "channels": 32,
        "epochs": 40,
        "batch_size": 16,
        "learning_rate": 3e-3,
    }
    changes = ", ".join(f"{field} {value} (not {config[field]})" for field, value in smaller.items())
    config.update(smaller)
    config.name = f"{config.name}_quick"
    config.note = f"quick: {changes}"
    return config


def experiment(name: str, modules: list) -> ml_collections.ConfigDict:
    """An experiment: this config for several systems, seeds and alphas; run by mfl_jax.experiment.

    Args:
      name: of the experiment. modules: configs of this folder; what they set otherwise than this file makes a system.
    """
    config = get_config()
    plain = config.to_dict()
    config.name = name
    config.systems = ml_collections.ConfigDict()  # name: {field: value}, on top of the fields above
    for module in modules:
        fields = module.get_config().to_dict()
        config.systems[fields["name"]] = {key: v for key, v in fields.items() if v != plain[key] and key != "name"}
    config.seeds = 10  # runs of each system, with the seeds seed, seed + 1, ...
    config.alphas = ()  # values of alpha to go through with each system that has both tasks; empty: each system's own
    config.folds = False  # True: cross-validation over the four folds of the development split, its counts pooled
    config.members_at_once = 0  # runs trained at once; 0: as many as fit into memory
    return config


def shrunk_experiment(config: ml_collections.ConfigDict, arg: str) -> ml_collections.ConfigDict:
    """Shrinks an experiment to minutes on two cores if `arg` is `quick`, more than `shrunk` does, and says so."""
    config = shrunk(config, arg)
    if arg:
        config.update({"channels": 16, "epochs": 20, "seeds": 3, "learning_rate": 5e-3})
        config.note += "; further: channels 16, epochs 20, seeds 3, learning_rate 0.005"
    return config
