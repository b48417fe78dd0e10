"""Your own recordings with label lists in the format of this project; scenes and events come from the lists.

    manual_dir/
      meta/meta_development.txt   recordings for training
      meta/meta_evaluation.txt    recordings for scoring
      ...                         the recordings: WAV, FLAC, OGG or MP3, any rate, any number of channels

The part after the slash in `annotated_audio/NAME` is a name of your choice. The config fields `audio.clip_s`,
`audio.sample_rate_hz` etc. (configs/default.py) set the length of clips and the spectrogram.
"""

import dataclasses

from mfl_jax.data.builder import AnnotatedRecordings, AudioConfig
from mfl_jax.data.mel_spectrogram import MelConfig


class Builder(AnnotatedRecordings):
    """Any recordings, scenes and events."""

    name = "annotated_audio"
    ABOUT = "Recordings with their label lists."

    @classmethod
    def make_config(cls, name, *, clip_s=10.0, **mel):
        """Returns a config with any name and any consistent settings."""
        return AudioConfig(name=name, clip_s=clip_s, mel=dataclasses.replace(MelConfig(), **mel))
