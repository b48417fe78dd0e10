"""Your own recordings: any folder of audio with label lists of the project's format; scenes and events come from the lists.

    manual_dir/
      meta/meta_development.txt   what is trained on
      meta/meta_evaluation.txt    what is scored
      ...                         the recordings that the lists name, WAV, FLAC, OGG or MP3, any rate, any channel count

The part after the slash in `annotated_audio/NAME` is a name of your choice. Clip length, rate and spectrogram are
set by the config fields `audio.clip_s`, `audio.sample_rate_hz` and so on (configs/default.py).
"""

import dataclasses
from typing import ClassVar

from mfl_jax.data.builder import AnnotatedRecordings, AudioConfig
from mfl_jax.data.mel_spectrogram import MelConfig


class Builder(AnnotatedRecordings):
    """Own recordings, own scenes, own events."""

    name = "annotated_audio"
    BUILDER_CONFIGS: ClassVar = [AudioConfig(name="own")]
    ABOUT = "Own recordings with their label lists."

    @classmethod
    def make_config(cls, name, *, clip_s=10.0, **mel):
        """Any name, and any settings that fit together."""
        return AudioConfig(name=name, clip_s=clip_s, mel=dataclasses.replace(MelConfig(), **mel))
