"""A trained network from its checkpoint, for a person at a prompt: `model = mfl_jax.load("runs/proposed")`.

Nothing but the checkpoint is needed: neither the data set nor the devices that it was trained on.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from flax import nnx

from mfl_jax.data.mel_spectrogram import MelConfig
from mfl_jax.data.prepared_dataset import Dataset
from mfl_jax.errors import InputError
from mfl_jax.frame_mask import frame_mask
from mfl_jax.network import forward
from mfl_jax.runtime import storage
from mfl_jax.training import setup, task_balance
from mfl_jax.training.checkpoints import Checkpoints


@dataclasses.dataclass(frozen=True, eq=False)
class TrainedModel:
    """A network with the parameters of a checkpoint, and all that is needed to use it.

    Attributes:
      directory: of the run. step: of the checkpoint; `which` is `last` or `best`.
      config: the config of the run, with fields as attributes.
      scenes, events: the classes, in the order of the scores; empty for a task that was not trained.
      fingerprint: of the data that it was trained on.
      mel: the settings of the spectrograms. clip_frames: length of a clip, which is what the network was trained on.
      graphdef, params, batch_stats: of the network. feature_stats: of each mel bin over the training split.
    """

    directory: pathlib.Path
    step: int
    which: str
    config: Any
    scenes: tuple[str, ...]
    events: tuple[str, ...]
    fingerprint: str
    mel: MelConfig
    clip_frames: int
    graphdef: Any
    params: Any
    batch_stats: Any
    feature_stats: Any

    def __call__(self, log_mel, valid_frames=None) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Scores of scenes and events.

        Args:
          log_mel: of one clip [shape=(T, M)] or of several [shape=(B, T, M)], not normalised, as `features.log_mel` computes it.
            A clip of fewer than `clip_frames` frames is padded as in training.
          valid_frames: of each clip, int [shape=(B,)], or of the one clip: where the last clip of a recording ends, as the data
            sets have it. What stands behind it is not seen. All frames by default.

        Returns:
          Probabilities, float32: of each scene [shape=(B, S)] and of each event in each frame [shape=(B, T, E)], without B for
          one clip; None for a task that was not trained.

        Raises:
          ValueError: the shape is another one.
        """
        batch, one, frames = self._batch(log_mel, valid_frames)
        scene, event = jax.device_get(self.probabilities(batch))
        scene = None if scene is None else np.array(scene[0] if one else scene)
        event = None if event is None else np.array(event[0, :frames] if one else event[:, :frames])
        return scene, event

    def embeddings(self, log_mel, valid_frames=None) -> dict[str, np.ndarray]:
        """What the network makes of clips on the way to its scores, float32.

        Args:
          log_mel, valid_frames: as for a call.

        Returns:
          `shared` [shape=(B, T, M // 32, channels)], the output of the shared stack; `scene` [shape=(B, hidden)] and `event`
          [shape=(B, T, hidden)], of each head before its last layer. Without B for one clip.
        """
        batch, one, frames = self._batch(log_mel, valid_frames)
        embedded = jax.device_get(self._embed(self._arrays, batch))
        cut = {name: value if name == "scene" else value[:, :frames] for name, value in embedded.items()}
        return {name: np.array(value[0] if one else value, np.float32) for name, value in cut.items()}

    def sensitivity(self, log_mel, label: str, valid_frames=None) -> np.ndarray:
        """What the network hears for an event or a scene: the gradient of its logit with respect to the spectrogram.

        Times the spectrogram's deviation from the training mean, which gives each value's share of the logit to first order
        (Simonyan et al. 2014). The logit of an event is averaged over the frames in which its probability is highest (the
        upper tenth).

        Args:
          log_mel: of one clip [shape=(T, M)]. label: of `events` or `scenes`. valid_frames: as for a call.

        Returns:
          float32 [shape=(T, M)]; positive where the spectrogram speaks for the label. A label of both an event and a scene means
          the event.

        Raises:
          ValueError: an unknown label or another shape.
        """
        if label not in (*self.scenes, *self.events):
            raise ValueError(f"{label!r} is no class of this model; there are {', '.join((*self.scenes, *self.events))}")
        batch, one, frames = self._batch(log_mel, valid_frames)
        if not one:
            raise ValueError("the sensitivity is that of one clip [frames, mel bins]")
        is_event = label in self.events
        index = (self.events if is_event else self.scenes).index(label)
        return np.array(self._sensitivity(self._arrays, batch, is_event, index)[0, :frames])

    def predict(self, recording: str | pathlib.Path, *, overlap: float | None = None, rules: Mapping | None = None):
        """Scenes and events of a recording of any length, format and rate.

        Args:
          recording: the file.
          overlap: share of a window that the next one has in common with it; a half by default, 0 as in evaluating.
          rules: of post-processing, a `postprocessing.Rule` an event; without, the threshold of the config and no more.

        Returns:
          A `prediction.Prediction`.

        Raises:
          InputError: the recording can't be read.
        """
        from mfl_jax.inference import postprocessing, streaming  # of which the first imports this module

        source = streaming.Source(pathlib.Path(recording).name, pathlib.Path(recording))
        overlap = streaming.OVERLAP if overlap is None else overlap
        if rules is None:
            rules = dict.fromkeys(self.events, postprocessing.Rule(threshold=self.config.threshold))
        (result,) = streaming.predict_recordings(self, [source], overlap=overlap, rules=rules)
        if isinstance(result, streaming.Refused):
            raise InputError(result.reason)
        return result

    def probabilities(self, batch: Mapping) -> tuple[jax.Array | None, jax.Array | None]:
        """As a call, of a batch of padded clips: `log_mel` [shape=(B, T, M)], `valid_frames` and `clip_mask` [shape=(B,)]."""
        return self._probabilities(self._arrays, batch)

    def _batch(self, log_mel, valid_frames) -> tuple[dict, bool, int]:
        log_mel = np.asarray(log_mel, np.float32)
        one = log_mel.ndim == 2
        clips = log_mel[None] if one else log_mel
        if clips.ndim != 3 or not len(clips) or clips.shape[2] != self.mel.mel_bins or not 0 < clips.shape[1] <= self.clip_frames:
            raise ValueError(
                f"log-mel spectrograms are [frames, {self.mel.mel_bins}] or [clips, frames, {self.mel.mel_bins}], with 1 to "
                f"{self.clip_frames} frames, not {log_mel.shape}; predict takes longer recordings"
            )
        frames = clips.shape[1]
        valid_frames = np.full(len(clips), frames) if valid_frames is None else np.reshape(valid_frames, -1)
        if valid_frames.shape != (len(clips),) or valid_frames.min(initial=0) < 0 or valid_frames.max(initial=0) > frames:
            raise ValueError(f"valid_frames are a number from 0 to {frames} for each of {len(clips)} clips, not {valid_frames}")
        batch = {
            "log_mel": np.pad(clips, ((0, 0), (0, self.clip_frames - frames), (0, 0))),
            "valid_frames": valid_frames.astype(np.int32),
            "clip_mask": np.ones(len(clips), bool),
        }
        return batch, one, frames

    @property
    def _arrays(self) -> tuple:
        # Arguments of the compiled functions, so that one program serves all checkpoints of a network.
        return self.params, self.batch_stats, self.feature_stats

    @functools.cached_property
    def _probabilities(self):
        def probabilities(arrays, batch):
            with _precision(self.config.matmul_precision):
                scene, event = forward.infer(*arrays, batch, graphdef=self.graphdef)
            return None if scene is None else jax.nn.softmax(scene), None if event is None else jax.nn.sigmoid(event)

        return jax.jit(probabilities)

    def _network(self, arrays):
        params, batch_stats, _ = arrays
        return nnx.merge(self.graphdef, params, batch_stats, copy=True)

    @functools.cached_property
    def _embed(self):
        def embed(arrays, batch):
            def few(batch):
                normal = forward.normalise(batch["log_mel"], batch["valid_frames"], arrays[2])
                return self._network(arrays).embed(normal, clip_mask=batch["clip_mask"])

            with _precision(self.config.matmul_precision):
                return forward.in_small_batches(few, batch)

        return jax.jit(embed)

    @functools.cached_property
    def _sensitivity(self):
        def sensitivity(arrays, batch, is_event, index):
            normal = forward.normalise(batch["log_mel"], batch["valid_frames"], arrays[2])

            def logit(normal):
                scene, event = self._network(arrays)(normal, clip_mask=batch["clip_mask"])
                if not is_event:
                    return scene[0, index]
                valid = frame_mask(batch["valid_frames"][0], normal.shape[1])
                of_event = jnp.where(valid, event[0, :, index], -jnp.inf)
                highest = of_event >= jnp.nanquantile(jnp.where(valid, of_event, jnp.nan), 0.9)
                return jnp.sum(jnp.where(highest, of_event, 0)) / jnp.sum(highest)

            with _precision(self.config.matmul_precision):
                return jax.grad(logit)(normal) * normal

        return jax.jit(sensitivity, static_argnums=(2, 3))


def _precision(name: str):
    return jax.default_matmul_precision(None if name == "default" else name)


def load(run_directory: str | pathlib.Path, *, step: int | None = None) -> TrainedModel:
    """Loads the model of a run.

    Args:
      run_directory: of the run (`runs/proposed`), or one of its checkpoints (`runs/proposed/checkpoints/5400`).
      step: of a checkpoint, the newest by default. As in evaluating, the best one counts where the run had a validation fold.

    Raises:
      InputError: there is no such checkpoint, or none that is whole.
    """
    given = storage.resolve_folder(run_directory)
    given = given if storage.is_remote(given) else given.absolute()
    kinds = ("checkpoints", "best")
    if given.name.isdecimal() and given.parent.name in kinds and not (given / "checkpoints").is_dir():
        if step not in (None, int(given.name)):
            raise InputError(f"{given}: this is the checkpoint of step {given.name}, and not of step {step}")
        step, home, directory = int(given.name), given.parent, given.parent.parent
    elif given.name in kinds and not (given / "checkpoints").is_dir():
        home, directory = given, given.parent
    else:
        directory = given
        # A run with a held-out fold reports the best one on it; `best` is there from its first epoch on.
        home = directory / ("best" if (directory / "best").is_dir() else "checkpoints")
    if not home.is_dir():
        if (given / "members").is_dir():
            raise InputError(f"{given}: an experiment; its runs lie in {given}/members, one of which is meant")
        raise InputError(f"{given}: no trained run; it would hold the folder checkpoints")
    with Checkpoints(home, keep=2) as checkpoints:
        steps = checkpoints.steps()
        if step is not None and step not in steps:
            raise InputError(f"{home}: no checkpoint of step {step}, but of {', '.join(map(str, steps)) or 'none'}")
        found = checkpoints.newest(None if step is None else [step])
    if found is None:
        raise InputError(f"{given}: there is no checkpoint yet")
    try:
        return _model(directory, "best" if home.name == "best" else "last", *found)
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{home}: a checkpoint of another version of mfl_jax ({error}); it can't be used with this one"
        ) from None


def _model(directory, which, state, about) -> TrainedModel:
    config = ml_collections.FrozenConfigDict(about["config"])
    mel = MelConfig(**about["mel"])
    dataset = Dataset(
        directory=directory, scenes=tuple(about["scenes"]), events=tuple(about["events"]), mel=mel,
        clip_frames=about["clip_frames"], clips={}, fingerprint=about["fingerprint"],
    )  # fmt: skip
    graphdef, _, _ = nnx.split(nnx.eval_shape(lambda: setup.build_network(config, dataset)), nnx.Param, nnx.BatchStat)
    return TrainedModel(
        directory=directory,
        step=int(state["step"]),
        which=which,
        config=config,
        scenes=dataset.scenes if "scene" in config.tasks else (),
        events=dataset.events if "event" in config.tasks else (),
        fingerprint=dataset.fingerprint,
        mel=mel,
        clip_frames=dataset.clip_frames,
        graphdef=graphdef,
        params=task_balance.select_network_params(state["params"]),
        batch_stats=state["batch_stats"],
        feature_stats=state["feature_stats"],
    )
