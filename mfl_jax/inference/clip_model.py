"""The part of a trained model that predicting recordings needs."""

from collections.abc import Mapping
from typing import Protocol

import jax

from mfl_jax.data.mel_spectrogram import MelConfig


class ClipModel(Protocol):
    """A model of clips, such as `trained_model.TrainedModel`, which documents the attributes."""

    @property
    def scenes(self) -> tuple[str, ...]: ...

    @property
    def events(self) -> tuple[str, ...]: ...

    @property
    def mel(self) -> MelConfig: ...

    @property
    def clip_frames(self) -> int: ...

    def probabilities(self, batch: Mapping) -> tuple[jax.Array | None, jax.Array | None]: ...
