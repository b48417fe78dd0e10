"""Prepares data, trains, tunes and evaluates one system.

python -m mfl_jax.main --config=proposed [--config.FIELD=VALUE ...] [--workdir=DIR] [--mode=MODE]

MODE is train (the default), evaluate, tune or prepare. Where the package is installed, `mfl-jax train` etc. set the mode.
"""

import pathlib

from absl import flags
from ml_collections import ConfigDict

from mfl_jax.errors import InputError
from mfl_jax.runtime import commandline, config_file

STOPPED = 130
"""Exit status of a run that was asked to stop."""


def define_flags() -> commandline.Flags:
    """Defines the flags of the command."""
    holders = commandline.Flags(
        config_file.define_flag("Name or file of a config, e.g. proposed, proposed:quick or configs/proposed.py."),
        flags.DEFINE_string("workdir", None, "Folder of the run; runs/<name of the config> by default."),
    )
    flags.DEFINE_enum(
        "mode",
        "train",
        ["train", "evaluate", "tune", "prepare"],
        "train also evaluates at the end; evaluate scores a trained run; tune chooses thresholds and filters on the held-out "
        "fold; prepare only prepares the data.",
    )
    return holders


def run(config: ConfigDict, workdir: pathlib.Path, mode: str) -> int:
    """Runs a mode of the command; returns the exit status."""
    # Imported here, so that --help and wrong flags answer at once.
    from mfl_jax.data import prepare
    from mfl_jax.runtime import parallel, workdir_config
    from mfl_jax.scoring import eval_packages
    from mfl_jax.training import config_checks, setup

    if "systems" in config:
        raise InputError("this config describes an experiment of several runs; use python -m mfl_jax.experiment")
    config_checks.check_config(config)
    if mode in ("train", "evaluate") and config_checks.requested_event_scores(config):
        eval_packages.import_eval_packages()  # a missing package shows before training, not after it
    if mode == "prepare":  # belongs to no run
        prepare.prepare_from_config(config, report=print if parallel.is_first_host() else None)
        return 0
    workdir_config.check_workdir(workdir, config)
    dataset = prepare.prepare_from_config(config)
    setup.configure_process(config)
    if config.note and parallel.is_first_host():
        print(config.note, flush=True)
    from mfl_jax.scoring import evaluate_run, fold_thresholds, tune
    from mfl_jax.training import loop

    if config.thresholds_from and "event" in config.tasks:  # a missing file shows before training, not after it
        fold_thresholds.read_thresholds(config.thresholds_from, config.name, dataset.events, dataset.fingerprint)

    if mode == "tune":
        if parallel.is_first_host():
            tune.tune(config, dataset, workdir)
        return 0
    if mode == "train" and not loop.train(config, dataset, workdir):
        return STOPPED
    evaluate_run.evaluate_run(config, dataset, workdir)
    return 0


if __name__ == "__main__":
    commandline.run_with_config(lambda config, workdir: run(config, workdir, flags.FLAGS.mode), define_flags())
