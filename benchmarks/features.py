"""Computes log-mel clips from recordings, compared with a loop over librosa; and peak memory by length of a recording.

python -m benchmarks.features [--recordings=60] [--seconds=60] [--rounds=3] [--lengths_min=1,10,60]

The recordings are noise: stereo, 24 bit, 44.1 kHz. The clips of both sides are compared before the timing. `ratio` is the time of
the librosa loop over the time of mfl_jax on all cores, `ratio_one_thread` over the time of mfl_jax in one thread.
"""

import pathlib
import tempfile

import librosa
import numpy as np
import soundfile

from benchmarks import timing
from mfl_jax.data import clip_cutting, mel_spectrogram, spectrogram_cache
from mfl_jax.data.annotation import Recording

CONFIG, CLIP_FRAMES = mel_spectrogram.MelConfig(), 500


def write_noise(file: pathlib.Path, seconds: int, seed: int) -> None:
    """Writes one recording of noise, second by second."""
    rng = np.random.default_rng(seed)
    with soundfile.SoundFile(file, "w", CONFIG.sample_rate_hz, 2, subtype="PCM_24") as out:
        for _ in range(seconds):
            out.write(0.1 * rng.standard_normal((CONFIG.sample_rate_hz, 2)))


def compute_librosa_clips(files: list[pathlib.Path]) -> list[np.ndarray]:
    """Computes the same features as a simple loop over librosa, which loads each recording into memory."""
    clips = []
    # librosa centres its windows on multiples of the hop; ours are centred half a hop later, with zeros beyond the edges.
    before = CONFIG.fft_samples // 2 - CONFIG.hop_samples // 2
    for file in files:
        waveform, _ = librosa.load(file, sr=CONFIG.sample_rate_hz, mono=True)
        frames = CONFIG.frames(len(waveform))
        padded = np.pad(waveform, (before, CONFIG.fft_samples))
        power = librosa.feature.melspectrogram(
            y=padded, sr=CONFIG.sample_rate_hz, n_fft=CONFIG.fft_samples, hop_length=CONFIG.hop_samples,
            win_length=CONFIG.window_samples, center=False, n_mels=CONFIG.mel_bins, fmin=CONFIG.low_hz, fmax=CONFIG.high_hz,
        )  # fmt: skip
        log_mel = np.log(power.T[:frames] + CONFIG.floor)
        clips += [log_mel[start : start + CLIP_FRAMES] for start in range(0, frames, CLIP_FRAMES)]
    return clips


def compute_clips(files: list[pathlib.Path], jobs: int | None) -> list[np.ndarray]:
    """Computes clips as the data set builders do: writes spectrograms to files and cuts clips from them."""
    recordings = [Recording(path=file.name, scene="any", events=()) for file in files]
    clips = {}
    with tempfile.TemporaryDirectory() as name:
        places = {"root": files[0].parent, "folder": pathlib.Path(name)}
        for recording, kept in spectrogram_cache.cache_spectrograms(
            recordings, mel=CONFIG, description="recordings", jobs=jobs, **places
        ):
            for clip in clip_cutting.plan_clips(
                recording, kept, mel=CONFIG, clip_frames=CLIP_FRAMES, anomalies=clip_cutting.Anomalies()
            ):
                clips[clip.key] = clip_cutting.build_example(clip, events=("any",), mel=CONFIG, clip_frames=CLIP_FRAMES)[
                    "log_mel"
                ]
    return [clips[key] for key in sorted(clips)]


def compare(folder: pathlib.Path, recordings: int, seconds: int, rounds: int) -> dict:
    """Checks that both sides agree, and times them on the same recordings."""
    files = [folder / f"{number:04d}.wav" for number in range(recordings)]
    for number, file in enumerate(files):
        write_noise(file, seconds, number)
    for ours, theirs in zip(compute_clips(files[:2], 1), compute_librosa_clips(files[:2]), strict=True):
        np.testing.assert_allclose(ours[: len(theirs)], theirs, rtol=1e-3, atol=1e-3)
    sides = {
        "librosa_loop": lambda: compute_librosa_clips(files), "mfl_jax": lambda: compute_clips(files, None),
        "mfl_jax_one_thread": lambda: compute_clips(files, 1),
    }  # fmt: skip
    times = timing.alternate(sides, rounds)
    theirs = times["librosa_loop"]["median_s"]
    return {
        "recordings": recordings, "seconds": seconds, **times, "ratio": theirs / times["mfl_jax"]["median_s"],
        "ratio_one_thread": theirs / times["mfl_jax_one_thread"]["median_s"],
        "times_real_time": recordings * seconds / times["mfl_jax"]["median_s"],
    }  # fmt: skip


def memory(folder: pathlib.Path, minutes: int) -> dict:
    """Peak memory of a process that computes the features of one recording."""
    file = folder / "long.wav"
    write_noise(file, 60 * minutes, 0)
    code = (
        "import sys; from mfl_jax.data import mel_spectrogram, spectrogram_cache; "
        "spectrogram_cache.write_log_mel(sys.argv[1], mel_spectrogram.MelConfig(), sys.argv[1] + '.f32')"
    )
    return {"recording_min": minutes, "peak_memory_mb": timing.peak_memory_mb(code, file)}


def results(*, recordings=60, seconds=60, rounds=3, lengths_min=(1, 10, 60)) -> list[dict]:
    """Returns the comparison, and one entry per length of recording."""
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        compared = compare(folder, recordings, seconds, rounds)
        return [compared, *(memory(folder, minutes) for minutes in lengths_min)]


if __name__ == "__main__":
    timing.run(results, "librosa", "numpy", "soundfile")
