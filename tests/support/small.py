"""Small data sets and configs for the tests."""

import dataclasses
import pathlib

import numpy as np
import soundfile
import tensorflow_datasets as tfds

from configs import default
from mfl_jax.data import clip_cutting, prepare, spectrogram_cache
from mfl_jax.data.mel_spectrogram import MelConfig
from mfl_jax.data.prepared_dataset import Dataset
from support import ROOT

HEADER = "path\tscene_label\tevent_start_time\tevent_end_time\tevent_label\n"
RATE = 8000
SEEDS = 3
# Clips of 1 s and 50 frames at 8 kHz: they run all of the code for a fraction of the time.
AUDIO = {
    "clip_s": 1.0, "sample_rate_hz": RATE, "window_samples": 320, "hop_samples": 160, "fft_samples": 512, "mel_bins": 32,
    "low_hz": 0.0, "high_hz": 4000.0,
}  # fmt: skip
MEL = MelConfig(**{key: value for key, value in AUDIO.items() if key != "clip_s"})
CLIP_FRAMES = 50


def write_recordings(root: pathlib.Path, *, development: int = 8, evaluation: int = 4, seconds: float = 2.6) -> pathlib.Path:
    """Writes quiet noise (scene `calm`) and louder noise (scene `busy`) with tones of 500 Hz (`low`) and 2 kHz (`high`)."""
    rng = np.random.default_rng(0)
    (root / "meta").mkdir(parents=True)
    (root / "audio").mkdir()
    for split, count in (("development", development), ("evaluation", evaluation)):
        rows = []
        for number in range(count):
            scene, path = ("calm", "busy")[number % 2], f"audio/{split}_{number}.wav"
            t = np.arange(int(seconds * RATE)) / RATE
            wave = (0.01, 0.05)[number % 2] * rng.standard_normal(len(t))
            for label, pitch in (("low", 500.0), ("high", 2000.0)):
                onset, offset = np.sort(rng.uniform(0, seconds, 2))
                wave += 0.2 * np.sin(2 * np.pi * pitch * t) * ((t >= onset) & (t < offset))
                rows.append(f"{path}\t{scene}\t{onset:.6f}\t{offset:.6f}\t{label}\n")
            soundfile.write(root / path, wave.clip(-1, 1), RATE)
        (root / "meta" / f"meta_{split}.txt").write_text(HEADER + "".join(rows))
    return root


def prepare_small(data_dir: pathlib.Path | str, root: pathlib.Path | str, *, beam: str = "") -> Dataset:
    """Prepares recordings with the settings `AUDIO` as annotated_audio/small."""
    return prepare.prepare("annotated_audio/small", data_dir=data_dir, manual_dir=root, beam=beam, **AUDIO)


def prepare_in_shards(data_dir: pathlib.Path | str, root: pathlib.Path | str, shards: int, *, beam: str = ""):
    """Prepares like `prepare_small`, into a given number of shards per split; returns the builder."""
    cls = prepare.load_builder("annotated_audio").Builder
    builder = cls(config=cls.make_config("small", **AUDIO), data_dir=data_dir, manual_dir=root, beam=beam)
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(num_shards=shards))
    return builder


def small_dataset(tmp: pathlib.Path, **recordings: int) -> Dataset:
    """Prepares `write_recordings` in `tmp`/recordings as annotated_audio/small in `tmp`/data."""
    root = write_recordings(tmp / "recordings", **recordings)
    return prepare_small(tmp / "data", root)


def small_config(tmp: pathlib.Path, **fields):
    """Returns a config that trains on `small_dataset` in seconds."""
    config = default.get_config()
    config.update(
        {
            "name": "small",
            "dataset": "annotated_audio/small",
            "data_dir": str(tmp / "data"),
            "channels": 4,
            "hidden": 4,
            "epochs": 3,
            "batch_size": 5,
            "learning_rate": 1e-2,
            "eta": 0.5,
            "gamma": 1.0,
            "zeta": 0.0625,
            "devices": 1,
            "matmul_precision": "highest",
            "audio": AUDIO,
        }
    )
    config.update(fields)
    return config


def small_flags(tmp: pathlib.Path, **fields) -> list[str]:
    """Flags of `mfl_jax.main` for the run of `small_config`."""
    config = small_config(tmp, **fields)
    audio = [f"--config.audio.{key}={value}" for key, value in config.audio.items()]
    names = ("dataset", "data_dir", "channels", "hidden", "epochs", "batch_size", "devices", *fields)
    return [f"--config={ROOT}/configs/proposed.py", *audio, *(f"--config.{name}={config[name]}" for name in dict.fromkeys(names))]


def small_experiment(tmp, systems=None, **fields):
    """Returns an experiment of the proposed losses with three seeds on one device."""
    config = default.experiment("small", [])
    for key, value in small_config(tmp).to_dict().items():
        if key != "name":
            config[key] = value
    config.systems.update({"proposed": {}} if systems is None else systems)
    config.seeds = SEEDS
    config.update(fields)
    return config


def build_examples(recordings, root, folder, *, events, mel, clip_frames, anomalies, jobs) -> dict[str, dict]:
    """Builds the examples of recordings by key, in the two stages of the builders."""
    computed = spectrogram_cache.cache_spectrograms(recordings, root=root, folder=folder, mel=mel, description="test", jobs=jobs)
    return {
        clip.key: clip_cutting.build_example(clip, events=events, mel=mel, clip_frames=clip_frames)
        for recording, spectrogram in computed
        for clip in clip_cutting.plan_clips(recording, spectrogram, mel=mel, clip_frames=clip_frames, anomalies=anomalies)
    }


def merged(dataset: Dataset, **changes) -> Dataset:
    """A `Dataset` with some attributes replaced."""
    return dataclasses.replace(dataset, **changes)
