"""Every field of a config, with its [unit] and the reason for its value. `--config_help` prints these comments.

The four systems of the paper change a few of these fields: proposed.py, conventional_mtl.py, cnn_asc.py, cnn_bigru_sed.py. Any
field can be set on the command line: `--config.alpha=0.01 --config.dataset=soundscapes/full`.
"""

import ml_collections


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """Returns the paper's conditions with plain losses on both tasks; `quick` shrinks them to minutes on two cores."""
    config = ml_collections.ConfigDict()
    config.name = "default"  # of the run and, by default, of its work directory runs/<name>

    # Data.
    config.dataset = "tut_scenes_events/full"  # builder/config: soundscapes/full, annotated_audio/any_name ...
    config.data_dir = "data"  # folder of prepared data sets
    config.manual_dir = ""  # recordings and label lists, needed until the data set is prepared, compared with it afterwards
    config.beam = ""  # empty: prepare with this machine's threads; or options of an Apache Beam pipeline (datasets/README.md)
    config.validation = "none"  # none: report the last epoch, as in the paper; fold1 ... fold4: the best on that held-out fold
    # Scenes are trained and scored on clips of which this share is audio, and on the first clip of every recording; 0: on all.
    config.min_clip_share = 0.1
    # Spectrograms of annotated_audio; the other builders set their own. See MelConfig in mfl_jax/data/mel_spectrogram.py.
    config.audio = ml_collections.ConfigDict()
    config.audio.clip_s = 10.0  # [s] length of a clip
    config.audio.sample_rate_hz = 44_100  # [Hz] recordings are resampled to it
    config.audio.window_samples = 1764  # [samples] 40 ms
    config.audio.hop_samples = 882  # [samples] 20 ms, the length of a frame
    config.audio.fft_samples = 2048  # [samples] at least the window
    config.audio.mel_bins = 64  # number of mel bands
    config.audio.low_hz = 0.0  # [Hz] lower edge of the lowest mel band
    config.audio.high_hz = 22_050.0  # [Hz] upper edge of the highest mel band

    # Network (Table II).
    config.tasks = ("scene", "event")  # or one of them
    config.channels = 128  # of the shared convolutions; twice as many in the scene head
    config.hidden = 32  # GRU units per direction, and units of the dense layers
    config.slope = 0.01  # of the leaky ReLU below zero; not given in the paper
    config.dropout = 0.0  # rate after each convolution; not mentioned in the paper
    config.mask_padding = True  # padded frames of a short clip count nowhere; False as in runs before this field existed

    # Loss (Eqs. 3, 5, 6).
    config.alpha = 0.001  # weight of the scene loss
    config.beta = 1.0  # weight of the event loss
    config.eta = 0.0  # focus of the scene loss; 0 is plain cross-entropy
    config.gamma = 0.0  # focus on active frames; with zeta 0, plain binary cross-entropy
    config.zeta = 0.0  # focus on inactive frames
    config.scene_weight = 1.0  # multiplies the scene loss, as alpha does
    config.active_weight = 1.0  # multiplies the event loss of active frames
    config.inactive_weight = 1.0  # multiplies the event loss of inactive frames
    # fixed: alpha and beta as they are. uncertainty, dwa: multiplied by weights that change (mfl_jax/training/task_balance.py).
    config.balance = "fixed"
    config.balance_learning_rate = 1e-2  # of the weights that uncertainty learns; 0 for config.learning_rate
    config.reduction = "mean"  # or "sum", the equations as printed: the same alpha then weighs 12,500 times less
    # Weights of further terms, by name: see mfl_jax/training/loss_terms.py and docs/extend.md.
    config.loss_terms = ml_collections.ConfigDict()

    # Training.
    config.optimiser = "radam"  # see mfl_jax/training/optimiser.py
    config.learning_rate = 2e-4  # of the optimiser
    config.batch_size = 64  # [clips] summed over all devices
    config.epochs = 300  # passes over the training clips
    config.learning_rate_decay = "none"  # or cosine: half a cosine from learning_rate to 0 at the last step of all epochs
    config.warmup_epochs = 0.0  # [epochs] the learning rate rises linearly from 0 during so many; fractions are allowed
    config.weight_decay = 0.0  # each step also multiplies the kernels, but no bias or gain, by 1 - learning rate times this
    config.ema_decay = 0.0  # of the average of parameters over the steps, which is then evaluated and loaded; 0: none
    config.seed = 0  # of the initial parameters, the clip order and everything random in a step
    config.random_crops = 0.0  # probability that a clip starts later in an epoch and ends within the next one of its recording
    config.prior_bias = 0.0  # the biases of the event logits start at this times the log odds of each event's share of frames
    config.rare_event_sampling = 0.0  # clips are drawn with weight n ** -this; n: number of clips with their rarest event
    # Strengths of augmentations, by name; 0: not computed. See mfl_jax/training/augmentations.py and docs/training.md.
    config.augmentations = ml_collections.ConfigDict()
    config.augmentations.same_scene_mixing = 0.0  # probability of adding another clip of the same scene of the batch
    config.augmentations.filter_augment = 0.0  # [dB] mel bins are up to this much louder or softer
    config.augmentations.gain = 0.0  # [dB] clips are up to this much louder or softer
    config.augmentations.time_mask = 0.0  # [frames] the longest stretch of a clip to hide, with its events
    config.augmentations.frequency_mask = 0.0  # [mel bins] the most adjacent ones of a clip to hide
    config.threshold = 0.5  # an event is detected at this probability or above (Table III)
    config.matmul_precision = "default"  # or high, highest; by default TPUs and newer GPUs round float32 products
    config.compute = "float32"  # type of convolutions and activations; or bfloat16, faster on TPUs and GPUs
    config.accelerator = "auto"  # cpu, gpu or tpu; auto: the fastest, refusing a CPU if JAX was installed for an accelerator
    config.devices = 0  # number of this machine's devices to use; 0: all; must be 0 with several hosts
    config.keep_every = 0  # [epochs] also keep the checkpoint of every so many; 0: only the last and the best

    # Evaluation and tuning. The paper scores frames; other scores are reported as well.
    config.scores = "frame"  # comma-separated: frame, segment, event, psds; with sed_scores_eval and sed_eval (extra `eval`)
    config.postprocess = "none"  # of the events for the other scores; or tuned: as chosen by --mode=tune
    # Folder of a finished experiment with folds, whose out-of-fold scores give a threshold for each event; or empty.
    config.thresholds_from = ""
    config.tune = "frame"  # F-score that --mode=tune maximises for each event: frame, or segment (1 s)

    config.note = ""  # describes what was shrunk; printed at the start
    return shrunk(config, arg)


def shrunk(config: ml_collections.ConfigDict, arg: str) -> ml_collections.ConfigDict:
    """Shrinks a config to minutes on two cores if `arg` is `quick`, and describes that in `note`."""
    if not arg:
        return config
    if arg != "quick":
        raise ValueError(f"only `quick` may follow the colon of a config, not {arg!r}")
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
    """Returns an experiment for mfl_jax.experiment: this config for several systems, seeds and values of a parameter.

    Args:
      name: of the experiment.
      modules: configs of this folder; the fields in which one differs from this file define a system.
    """
    config = get_config()
    plain = config.to_dict()
    config.name = name
    # name: {field: value}, on top of the fields above. weights_from: a system whose mean loss multipliers are the three weights.
    config.systems = ml_collections.ConfigDict()
    for module in modules:
        fields = module.get_config().to_dict()
        config.systems[fields["name"]] = {key: v for key, v in fields.items() if v != plain[key] and key != "name"}
    config.seeds = 10  # runs of each system, with the seeds seed, seed + 1, ...
    config.alphas = ()  # values of alpha to run for each two-task system; empty: each system's own alpha
    # Values to run beside its own for each system with a focal loss, one field at a time: --config.sweep.eta="(0, 0.25, 0.5, 1)".
    config.sweep = ml_collections.ConfigDict({"eta": (), "gamma": (), "zeta": ()})
    config.folds = False  # True: cross-validation over the four folds of the development split, with pooled counts
    config.members_at_once = 0  # runs trained at once; 0: as many as fit into memory
    return config


def shrunk_experiment(config: ml_collections.ConfigDict, arg: str) -> ml_collections.ConfigDict:
    """Shrinks an experiment like `shrunk`, and further, to minutes on two cores if `arg` is `quick`."""
    config = shrunk(config, arg)
    if arg:
        config.update({"channels": 16, "epochs": 20, "seeds": 3, "learning_rate": 5e-3})
        config.note += "; further: channels 16, epochs 20, seeds 3, learning_rate 0.005"
    return config
