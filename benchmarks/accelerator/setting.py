"""The sizes of a run: those of the paper's network, or of a tiny one that runs every piece on a CPU."""

import dataclasses
from typing import Any

from benchmarks import workload
from mfl_jax.data.prepared_dataset import Dataset


@dataclasses.dataclass(frozen=True)
class Setting:
    """Sizes that all pieces share.

    Attributes:
      channels, hidden, batch_size: config fields.
      frames: per clip.
      clips: of an epoch; those of the paper's development split.
      members: runs trained at once.
      blocks: timed blocks of steps, of which the median is reported.
      steps: in flight per block.
      epochs: of a single run, timed after one that compiles.
      group_epochs: the same of several runs at once.
    """

    channels: int
    hidden: int
    batch_size: int
    frames: int
    clips: int
    members: int
    blocks: int
    steps: int
    epochs: int
    group_epochs: int

    def config(self, **fields: Any) -> Any:
        """Returns the config of the proposed system in these sizes, with `fields` changed."""
        sizes = {"channels": self.channels, "hidden": self.hidden, "batch_size": self.batch_size}
        return workload.make_config(**{**sizes, "compute": "bfloat16", **fields})

    def dataset(self) -> Dataset:
        """Returns a data set without files."""
        return workload.make_dataset(self.frames)


FULL = Setting(
    channels=128, hidden=32, batch_size=64, frames=500, clips=1004, members=10, blocks=5, steps=20, epochs=20, group_epochs=5
)  # fmt: skip
SMALL = Setting(channels=4, hidden=4, batch_size=2, frames=50, clips=3, members=2, blocks=2, steps=2, epochs=1, group_epochs=1)
