"""A data set of noise that exists in memory only, for training loops on a machine without recordings."""

from collections.abc import Iterable

from benchmarks import workload
from benchmarks.accelerator.setting import Setting
from mfl_jax.data.prepared_dataset import Clips, Dataset


class _Examples:
    """Clips of noise as a random-access source of examples, like those of TFDS."""

    def __init__(self, dataset: Dataset, clips: int):
        batch = workload.make_batch(dataset, clips)
        origin = {"fold": 0, "recording": "noise", "clip_start_s": 0.0}
        fields = ("log_mel", "events", "scene", "valid_frames")
        self._examples = [{**{field: batch[field][clip] for field in fields}, **origin} for clip in range(clips)]

    def __len__(self) -> int:
        return len(self._examples)

    def __getitems__(self, indices: Iterable[int]) -> list[dict]:
        return [self._examples[index] for index in indices]


class NoiseClips(Dataset):
    """A data set whose splits are noise."""

    def read(self, split: str, *, min_clip_share: float = 0.0) -> Clips:
        """Makes the clips of a split, the same ones at every call."""
        return Clips(_Examples(self, self.clips[split]), min_clip_share=min_clip_share)


def make(setting: Setting) -> NoiseClips:
    """Makes a data set with `setting.clips` clips to train on and one batch to score on."""
    fields = vars(setting.dataset())
    return NoiseClips(**{**fields, "clips": {"development": setting.clips, "evaluation": setting.batch_size}})
