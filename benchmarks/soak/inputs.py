"""Inputs of the soak test: small recordings of noise and tones, and the config file of its commands."""

import contextlib
import io
import pathlib

import numpy as np
import soundfile

from mfl_jax.data import label_list, prepare

DATASET = "annotated_audio/soak"
RATE = 8000
# Clips of 1 s with 50 frames at 8 kHz exercise the same code as full-size clips, with a fraction of the work.
AUDIO = {
    "clip_s": 1.0, "sample_rate_hz": RATE, "window_samples": 320, "hop_samples": 160, "fft_samples": 512, "mel_bins": 32,
    "low_hz": 0.0, "high_hz": 4000.0,
}  # fmt: skip
CONFIG = '''"""The configs that benchmarks/soak runs."""

from mfl_jax.configs import conventional_mtl, default, proposed


def get_config(kind):
    """`preparation`, `training` or `experiment`."""
    if kind == "preparation":
        config = proposed.get_config()
        config.dataset = {dataset!r}
        return config
    if kind == "experiment":
        config = default.experiment("soak", [conventional_mtl, proposed])
        config.update({{"seeds": 2, "members_at_once": 2}})
    else:
        config = proposed.get_config()
    config.update({fields!r})
    return config
'''


def write_recordings(root: pathlib.Path, development: int, evaluation: int, seconds: float) -> None:
    """Writes noise (scene `calm`) and louder noise (scene `busy`) with tones of 500 Hz (`low`) and 2 kHz (`high`).

    Args:
      root: folder for the recordings and their label lists.
      development, evaluation: number of recordings in each split.
      seconds: length of each recording.
    """
    rng = np.random.default_rng(0)
    (root / "meta").mkdir(parents=True)
    t = np.arange(int(seconds * RATE)) / RATE
    for split, count in (("development", development), ("evaluation", evaluation)):
        rows = ["\t".join(label_list.COLUMNS) + "\n"]
        for number in range(count):
            wave = (0.01, 0.05)[number % 2] * rng.standard_normal(len(t))
            for label, pitch_hz in (("low", 500.0), ("high", 2000.0)):
                onset, offset = np.sort(rng.uniform(0, seconds, 2))
                wave += 0.2 * np.sin(2 * np.pi * pitch_hz * t) * ((t >= onset) & (t < offset))
                rows.append(f"{split}{number}.wav\t{('calm', 'busy')[number % 2]}\t{onset:.6f}\t{offset:.6f}\t{label}\n")
            soundfile.write(root / f"{split}{number}.wav", wave.clip(-1, 1), RATE)
        (root / "meta" / f"meta_{split}.txt").write_text("".join(rows))


def write_inputs(folder: pathlib.Path, recordings: int) -> None:
    """Writes `config.py`, the `recordings` to prepare, and a small prepared data set in `data` for the runs that train."""
    write_recordings(folder / "recordings", recordings - 1, 1, 60.0)
    write_recordings(folder / "recordings_small", 8, 4, 2.6)
    with contextlib.redirect_stderr(io.StringIO()):
        prepare.prepare(DATASET, data_dir=folder / "data", manual_dir=folder / "recordings_small", **AUDIO)
    fields = {
        "dataset": DATASET, "data_dir": str(folder / "data"), "channels": 4, "hidden": 4, "batch_size": 5, "learning_rate": 1e-2,
        "devices": 1, "accelerator": "cpu", "audio": AUDIO,
    }  # fmt: skip
    (folder / "config.py").write_text(CONFIG.format(dataset=DATASET, fields=fields))
