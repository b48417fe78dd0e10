"""The paper's systems are trained by steps without any trace of what is beyond the paper."""

import functools
import importlib
import pathlib

import jax
import numpy as np
import pytest

from mfl_jax.data.mel_spectrogram import MelConfig
from mfl_jax.data.prepared_dataset import Dataset
from mfl_jax.training import setup, steps
from mfl_jax.training.augmentations import AUGMENTATIONS
from mfl_jax.training.optimiser import decay_scalars

SYSTEMS = ("proposed", "conventional_mtl", "cnn_asc", "cnn_bigru_sed")
FRAMES, BINS = 50, 32
DATASET = Dataset(
    directory=pathlib.Path("data"), scenes=("home", "street"), events=("bell", "car"), mel=MelConfig(mel_bins=BINS),
    clip_frames=FRAMES, clips={}, fingerprint="",
)  # fmt: skip
BATCH = {
    "log_mel": np.zeros((2, FRAMES, BINS), np.float32),
    "events": np.zeros((2, FRAMES, 2), bool),
    "scene": np.zeros(2, np.int32),
    "valid_frames": np.full(2, FRAMES, np.int32),
    **{name: np.ones(2, bool) for name in ("clip_mask", "scene_mask", "event_mask")},
}


def make_config(system, **fields):
    """The config of a system with a tiny network."""
    config = importlib.import_module(f"configs.{system}").get_config()
    config.update({"channels": 2, "hidden": 2, **fields})
    return config


def lower(config):
    """Returns the training step of a config as text, and its first state."""
    graphdefs = []

    def build():
        graphdef, state = setup.initial_state(config, DATASET)
        graphdefs.append(graphdef)
        return state

    state, (graphdef,) = jax.eval_shape(build), graphdefs  # shapes alone: nothing is compiled
    scalars = setup.step_scalars(config) | decay_scalars(config.learning_rate_decay, 10)
    step = functools.partial(setup.bind_steps(setup.step_settings(config, graphdef))[0], axis_name=None)
    return jax.jit(lambda *arguments: step(*arguments)).lower(state, BATCH, scalars).as_text(), state


@pytest.fixture(scope="module")
def programs():
    return {system: lower(make_config(system)) for system in SYSTEMS}


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_step_of_a_system_of_the_paper_is_that_without_hooks(programs, monkeypatch, system):
    program, state = programs[system]
    assert state.average is None
    monkeypatch.setattr(steps.augmentations, "augment", lambda batch, *_: batch)
    monkeypatch.setattr(steps, "decay_learning_rate", lambda scalars, _: scalars)
    assert lower(make_config(system))[0] == program


def test_the_systems_differ(programs):
    """Except for the values of the focal parameters, which are arguments."""
    texts = {system: program for system, (program, _) in programs.items()}
    assert texts["proposed"] == texts["conventional_mtl"] and len(set(texts.values())) == 3


@pytest.mark.parametrize(
    "fields",
    [*({"augmentations": {name: 0.5}} for name in AUGMENTATIONS), {"learning_rate_decay": "cosine"}, {"ema_decay": 0.9}],
    ids=[*AUGMENTATIONS, "learning_rate_decay", "ema_decay"],
)
def test_what_is_turned_on_is_in_the_program(programs, fields):
    program, state = lower(make_config("cnn_asc", **fields))
    assert program != programs["cnn_asc"][0]
    assert (state.average is None) == ("ema_decay" not in fields)
