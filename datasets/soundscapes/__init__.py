"""Synthetic soundscapes from `synthesis.py`: a data set that needs no download.

Configs: `quick` and `full`, with the same sounds and the same difficulty; `full` has about as many minutes as the paper's data.
The recordings and their label lists remain in `data_dir/recordings/soundscapes/`, e.g. for listening.
"""

import dataclasses
import pathlib
from typing import ClassVar

from mfl_jax.data.builder import AnnotatedRecordings, AudioConfig
from mfl_jax.errors import warn

from . import synthesis


@dataclasses.dataclass(eq=False)
class SoundscapeConfig(AudioConfig):
    """A config of synthetic soundscapes.

    Attributes:
      development, evaluation: recordings per scene.
      seed: of the random generator.
    """

    development: int = 0
    evaluation: int = 0
    seed: int = 0


class Builder(AnnotatedRecordings):
    """4 scenes, 14 events."""

    name = "soundscapes"
    BUILDER_CONFIGS: ClassVar = [
        SoundscapeConfig(name="quick", development=18, evaluation=12),
        SoundscapeConfig(name="full", development=144, evaluation=56),
    ]
    SCENES = tuple(synthesis.SCENES)
    EVENTS = synthesis.EVENTS
    NEEDS_MANUAL_DIR = False
    ABOUT = "Synthetic soundscapes with scene and event labels."

    def __init__(self, *, manual_dir=None, data_dir, **settings):
        """As `AnnotatedRecordings`; does not use `manual_dir`."""
        if manual_dir:
            warn("config.manual_dir is not used: the recordings of soundscapes are synthesised")
        super().__init__(manual_dir=None, data_dir=data_dir, **settings)

    @property
    def recordings(self):
        """The recordings of each split; synthesised if missing."""
        config = self.builder_config
        self.root = pathlib.Path(self.data_path.parents[2], "recordings", self.name, config.name, str(self.version))
        if not self.root.is_dir():
            self.root.parent.mkdir(parents=True, exist_ok=True)
            recordings_per_scene = {"development": config.development, "evaluation": config.evaluation}
            synthesis.render(self.root, recordings_per_scene, seed=config.seed)
        elif self._recordings is None:
            warn(f"{self.root}: reusing these recordings, because the same synthesis wrote them before")
        return super().recordings
