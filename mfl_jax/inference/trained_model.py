"""A trained network, loaded from its checkpoint: `model = mfl_jax.load("runs/proposed")`.

Needs neither the data set nor the devices of the training.
"""

import contextlib
import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from flax import nnx
from numpy.typing import ArrayLike

from mfl_jax.data.mel_spectrogram import MelConfig
from mfl_jax.data.prepared_dataset import Dataset
from mfl_jax.errors import InputError
from mfl_jax.frame_mask import frame_mask
from mfl_jax.inference import array_source, postprocessing, streaming
from mfl_jax.inference.audio_source import AudioSource, SoundSource
from mfl_jax.inference.prediction import Prediction, UnreadableRecording
from mfl_jax.network import forward
from mfl_jax.runtime import storage, workdir_config
from mfl_jax.training import setup, task_balance
from mfl_jax.training.checkpoints import Checkpoints


@dataclasses.dataclass(frozen=True, eq=False)
class TrainedModel:
    """A network with the parameters of a checkpoint.

    Attributes:
      directory: folder of the run.
      step: step of the checkpoint.
      which: `last` or `best`.
      config: the config of the run, with fields as attributes.
      scenes: scene classes, in the order of the scores; empty if the model was not trained on scenes.
      events: event classes, in the order of the scores; empty if the model was not trained on events.
      fingerprint: fingerprint of the training data.
      mel: settings of the spectrograms.
      clip_frames: length of a training clip in frames; the network takes clips up to this length.
      graphdef: structure of the network.
      params: parameters of the network.
      batch_stats: batch-norm statistics of the network.
      feature_stats: mean and standard deviation of each mel bin over the training split.
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
        """Computes the probabilities of scenes and events.

        Args:
          log_mel: log-mel spectrogram of one clip [shape=(T, M)] or of several [shape=(B, T, M)], not normalised, as from
            `mel_spectrogram.compute_log_mel`. Clips of fewer than `clip_frames` frames are padded, as in training.
          valid_frames: number of frames before the padding of each clip, int [shape=(B,)] or an int for one clip. Later frames
            are ignored. All frames by default.

        Returns:
          Probability of each scene, float32 [shape=(B, S)], and of each event in each frame, float32 [shape=(B, T, E)]; without B
          for one clip; None for a task that was not trained.

        Raises:
          ValueError: a wrong shape.
        """
        batch, is_single, frames = self._make_batch(log_mel, valid_frames)
        scene, event = jax.device_get(self.probabilities(batch))
        scene = None if scene is None else np.array(scene[0] if is_single else scene)
        event = None if event is None else np.array(event[0, :frames] if is_single else event[:, :frames])
        return scene, event

    def embeddings(self, log_mel, valid_frames=None) -> dict[str, np.ndarray]:
        """Computes hidden representations of clips.

        Args:
          log_mel: as for `__call__`.
          valid_frames: as for `__call__`.

        Returns:
          float32 arrays, without B for one clip:
            `shared` [shape=(B, T, M // 32, channels)]: output of the shared layers;
            `scene` [shape=(B, hidden)]: input of the last layer of the scene head;
            `event` [shape=(B, T, hidden)]: input of the last layer of the event head.
        """
        batch, is_single, frames = self._make_batch(log_mel, valid_frames)
        embedded = jax.device_get(self._embed(self._arrays, batch))
        trimmed = {name: value if name == "scene" else value[:, :frames] for name, value in embedded.items()}
        return {name: np.array(value[0] if is_single else value, np.float32) for name, value in trimmed.items()}

    def sensitivity(self, log_mel, label: str, valid_frames=None) -> np.ndarray:
        """Computes how much each value of a spectrogram contributes to the logit of a label.

        This is the gradient of the logit with respect to the spectrogram, times the deviation of the spectrogram from the
        training mean: to first order, the share of each value in the logit (Simonyan et al. 2014). The logit of an event is
        averaged over the tenth of the frames in which its probability is highest.

        Args:
          log_mel: log-mel spectrogram of one clip [shape=(T, M)].
          label: a label of `events` or `scenes`. A label in both means the event.
          valid_frames: as for `__call__`.

        Returns:
          float32 [shape=(T, M)]; positive values speak for the label.

        Raises:
          ValueError: an unknown label or a wrong shape.
        """
        if label not in (*self.scenes, *self.events):
            raise ValueError(f"unknown class {label!r}; the model knows {', '.join((*self.scenes, *self.events))}")
        batch, is_single, frames = self._make_batch(log_mel, valid_frames)
        if not is_single:
            raise ValueError("sensitivity takes one clip [frames, mel bins]")
        is_event = label in self.events
        index = (self.events if is_event else self.scenes).index(label)
        return np.array(self._sensitivity(self._arrays, batch, is_event, index)[0, :frames])

    def predict(
        self,
        recording: str | pathlib.Path | ArrayLike,
        sample_rate_hz: int | None = None,
        *,
        overlap: float = streaming.DEFAULT_OVERLAP,
        rules: Mapping[str, postprocessing.Rule] | None = None,
    ) -> Prediction:
        """Predicts scenes and events of a recording of any length, format and sampling rate.

        Args:
          recording: an audio file, or samples [shape=(n,) or (n, channels)]: floating-point numbers with full scale +-1, or
            int16 or int32, which are divided by 32768 or 2^31. They give the same prediction as a file with these samples.
          sample_rate_hz: sampling rate of the samples; only for samples.
          overlap: share of a window that overlaps the next one, in [0, 1). 0.5 by default; 0 as in `--mode=evaluate`.
          rules: post-processing rule of each event. By default only the threshold of the config applies.

        Raises:
          InputError: the recording can't be read or is a folder or a pipe; the samples are empty or not finite, or their rate,
            shape or type is invalid; `overlap` is not in [0, 1); or a rule is for an event that the model does not know.
        """
        source: SoundSource
        if isinstance(recording, str | os.PathLike):
            source = _check_file(recording, sample_rate_hz)
        else:
            source = array_source.check_array(recording, sample_rate_hz)
        if rules is None:
            rules = dict.fromkeys(self.events, postprocessing.Rule(threshold=self.config.threshold))
        (result,) = streaming.predict_recordings(self, [source], overlap=overlap, rules=rules)
        if isinstance(result, UnreadableRecording):
            raise InputError(result.reason)
        return result

    def probabilities(self, batch: Mapping) -> tuple[jax.Array | None, jax.Array | None]:
        """Computes probabilities as `__call__` does, but keeps them on the device.

        Args:
          batch: padded clips: `log_mel` [shape=(B, clip_frames, M)], `valid_frames` and `clip_mask` [shape=(B,)].
        """
        return self._compute_probabilities(self._arrays, batch)

    def _make_batch(self, log_mel, valid_frames) -> tuple[dict, bool, int]:
        """Checks the arguments of a call; returns padded clips, whether a single clip was given, and its frames."""
        log_mel = np.asarray(log_mel, np.float32)
        is_single = log_mel.ndim == 2
        clips = log_mel[None] if is_single else log_mel
        if clips.ndim != 3 or not len(clips) or clips.shape[2] != self.mel.mel_bins or not 0 < clips.shape[1] <= self.clip_frames:
            raise ValueError(
                f"log_mel must have the shape [frames, {self.mel.mel_bins}] or [clips, frames, {self.mel.mel_bins}], with 1 to "
                f"{self.clip_frames} frames, not {log_mel.shape}; use predict for longer recordings"
            )
        frames = clips.shape[1]
        valid_frames = np.full(len(clips), frames) if valid_frames is None else np.reshape(valid_frames, -1)
        if valid_frames.shape != (len(clips),) or valid_frames.min(initial=0) < 0 or valid_frames.max(initial=0) > frames:
            raise ValueError(
                f"valid_frames must hold a number from 0 to {frames} for each of {len(clips)} clips, not {valid_frames}"
            )
        batch = {
            "log_mel": np.pad(clips, ((0, 0), (0, self.clip_frames - frames), (0, 0))),
            "valid_frames": valid_frames.astype(np.int32),
            "clip_mask": np.ones(len(clips), bool),
        }
        return batch, is_single, frames

    @property
    def _arrays(self) -> tuple:
        # Arguments of the compiled functions, not constants, so that one program serves all checkpoints of a network.
        return self.params, self.batch_stats, self.feature_stats

    @functools.cached_property
    def _compute_probabilities(self) -> Callable:
        def probabilities(arrays, batch):
            with _precision(self.config.matmul_precision):
                scene, event = forward.infer(*arrays, batch, graphdef=self.graphdef)
            return None if scene is None else jax.nn.softmax(scene), None if event is None else jax.nn.sigmoid(event)

        return jax.jit(probabilities)

    def _merge_network(self, arrays: tuple) -> nnx.Module:
        params, batch_stats, _ = arrays
        return nnx.merge(self.graphdef, params, batch_stats, copy=True)

    @functools.cached_property
    def _embed(self) -> Callable:
        def embed(arrays, batch):
            def embed_batch(batch):
                normal = forward.normalise(batch["log_mel"], batch["valid_frames"], arrays[2])
                return self._merge_network(arrays).embed(normal, mask=forward.valid_mask(batch))

            with _precision(self.config.matmul_precision):
                return forward.map_clips(embed_batch, batch)

        return jax.jit(embed)

    @functools.cached_property
    def _sensitivity(self) -> Callable:
        def sensitivity(arrays, batch, is_event, index):
            normal = forward.normalise(batch["log_mel"], batch["valid_frames"], arrays[2])

            def logit(normal):
                scene, event = self._merge_network(arrays)(normal, mask=forward.valid_mask(batch))
                if not is_event:
                    return scene[0, index]
                valid = frame_mask(batch["valid_frames"][0], normal.shape[1])
                logits = jnp.where(valid, event[0, :, index], -jnp.inf)
                highest = logits >= jnp.nanquantile(jnp.where(valid, logits, jnp.nan), 0.9)
                return jnp.sum(jnp.where(highest, logits, 0)) / jnp.sum(highest)

            with _precision(self.config.matmul_precision):
                return jax.grad(logit)(normal) * normal

        return jax.jit(sensitivity, static_argnums=(2, 3))


def _check_file(recording: str | os.PathLike, sample_rate_hz: int | None) -> AudioSource:
    """Returns the source of a file; it may be missing, which is noticed when it is read."""
    source = AudioSource(pathlib.Path(recording).name, pathlib.Path(recording))
    if sample_rate_hz is not None:
        raise InputError(f"{recording}: leave out sample_rate_hz; a file states its rate")
    if source.file.exists() and not source.file.is_file():
        kind = "a folder; python -m mfl_jax.predict takes folders" if source.file.is_dir() else "not a regular file"
        raise InputError(f"{recording}: {kind}")
    return source


def _precision(name: str) -> contextlib.AbstractContextManager:
    return jax.default_matmul_precision(None if name == "default" else name)


def load(run_directory: str | pathlib.Path, *, step: int | None = None) -> TrainedModel:
    """Loads the model of a run.

    Args:
      run_directory: folder of the run (`runs/proposed`), or one of its checkpoints (`runs/proposed/checkpoints/5400`).
      step: step of the checkpoint; the newest by default. A run with a validation fold has one `best` checkpoint, which is loaded
        instead, as `--mode=evaluate` does.

    Raises:
      InputError: the checkpoint does not exist, is incomplete, or was written by an incompatible version.
    """
    path = storage.resolve_folder(run_directory)
    path = path if storage.is_remote(path) else path.absolute()
    directory, home, step = _locate_checkpoints(path, step)
    if not home.is_dir():
        if (path / "members").is_dir():
            raise InputError(f"{path}: an experiment, not a run; name one of its runs in {path}/members")
        raise InputError(f"{path}: no trained run here; a run has a folder checkpoints")
    with Checkpoints(home, keep=2) as checkpoints:
        steps = checkpoints.steps()
        if step is not None and step not in steps:
            raise InputError(f"{home}: no checkpoint of step {step}; available: {', '.join(map(str, steps)) or 'none'}")
        newest = checkpoints.newest(None if step is None else [step])
    if newest is None:
        raise InputError(f"{path}: there is no checkpoint yet")
    try:
        state, metadata = newest
        return _build_model(directory, "best" if home.name == "best" else "last", state, metadata)
    except (KeyError, TypeError, AttributeError) as error:
        if isinstance(error, AttributeError) and error.name and isinstance(error.obj, ml_collections.ConfigDict):
            raise workdir_config.missing_field_error(home, error.name) from None
        raise InputError(f"{home}: the checkpoint was written by an incompatible version of mfl_jax ({error})") from None


def _locate_checkpoints(path: pathlib.Path, step: int | None) -> tuple[pathlib.Path, pathlib.Path, int | None]:
    """Returns the folder of the run, the folder of its checkpoints and the step that a path and `step` mean."""
    kinds = ("checkpoints", "best")
    is_run = (path / "checkpoints").is_dir()  # a run may have any name
    if path.name.isdecimal() and path.parent.name in kinds and not is_run:
        if step not in (None, int(path.name)):
            raise InputError(f"{path}: this is the checkpoint of step {path.name}, not of step {step}")
        return path.parent.parent, path.parent, int(path.name)
    if path.name in kinds and not is_run:
        return path.parent, path, step
    # A run with a validation fold writes `best` from its first epoch on.
    return path, path / ("best" if (path / "best").is_dir() else "checkpoints"), step


def _build_model(directory: pathlib.Path, which: str, state: dict, metadata: Mapping) -> TrainedModel:
    config = ml_collections.FrozenConfigDict(workdir_config.fill_added_fields(metadata["config"]))
    mel = MelConfig(**metadata["mel"])
    dataset = Dataset(
        directory=directory, scenes=tuple(metadata["scenes"]), events=tuple(metadata["events"]), mel=mel,
        clip_frames=metadata["clip_frames"], clips={}, fingerprint=metadata["fingerprint"],
    )  # fmt: skip
    graphdef, *_ = nnx.split(nnx.eval_shape(lambda: setup.build_network(config, dataset)), nnx.Param, nnx.BatchStat)
    weights = state.get("average", state)
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
        params=task_balance.select_network_params(weights["params"]),
        batch_stats=weights["batch_stats"],
        feature_stats=state["feature_stats"],
    )
