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
from mfl_jax.training.optimiser import schedule_scalars

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


@functools.cache
def build(system, **fields):
    """Returns the structure of a tiny network and the shapes of its first state; nothing is compiled."""
    graphdefs = []

    def build_state():
        graphdef, state = setup.initial_state(make_config(system, **fields), DATASET)
        graphdefs.append(graphdef)
        return state

    state = jax.eval_shape(build_state)
    return graphdefs[0], state


def lower(system, **fields):
    """Returns the training step of a system as text, and the shapes of its first state."""
    graphdef, state = build(system, **{name: value for name, value in fields.items() if name == "ema_decay"})
    config = make_config(system, **fields)
    scalars = setup.step_scalars(config) | schedule_scalars(config, 10)
    step = functools.partial(setup.bind_steps(setup.step_settings(config, graphdef))[0], axis_name=None)
    return jax.jit(lambda *arguments: step(*arguments)).lower(state, BATCH, scalars).as_text(), state


@pytest.fixture(scope="module")
def programs():
    return {system: lower(system) for system in SYSTEMS}


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_step_of_a_system_of_the_paper_is_that_without_hooks(programs, monkeypatch, system):
    program, state = programs[system]
    assert state.average is None
    monkeypatch.setattr(steps.augmentations, "augment", lambda batch, *_: batch)
    monkeypatch.setattr(steps, "schedule_learning_rate", lambda scalars, _: scalars)
    monkeypatch.setattr(steps, "decay_weights", lambda updates, *_: updates)
    assert lower(system)[0] == program


def test_the_systems_differ(programs):
    """Except for the values of the focal parameters, which are arguments."""
    texts = {system: program for system, (program, _) in programs.items()}
    assert texts["proposed"] == texts["conventional_mtl"] and len(set(texts.values())) == 3


@pytest.mark.parametrize(
    "fields",
    [
        *({"augmentations": {name: 0.5}} for name in AUGMENTATIONS),
        {"learning_rate_decay": "cosine"},
        {"warmup_epochs": 5.0},
        {"weight_decay": 0.1},
        {"ema_decay": 0.9},
    ],
    ids=[*AUGMENTATIONS, "learning_rate_decay", "warmup_epochs", "weight_decay", "ema_decay"],
)
def test_what_is_turned_on_is_in_the_program(monkeypatch, fields):
    """With two mel bins in place of a network, which no option depends on."""
    monkeypatch.setattr(
        steps, "apply_network", lambda _params, stats, _, batch, **__: ((batch["log_mel"][:, 0, :2], None), stats)
    )
    (program, state), (plain, _) = lower("cnn_asc", **fields), lower("cnn_asc")
    assert program != plain == lower("cnn_asc")[0]
    assert (state.average is None) == ("ema_decay" not in fields)
