"""Synthesises annotated soundscapes of four scenes and fourteen sound events from formulas.

The parameters of a sound (pitch, rate, colour ...) are drawn on a logarithmic scale of nine bands. Development draws from the
even bands and evaluation from the odd ones, so that no evaluated sound occurs in training. Backgrounds of the scenes overlap in
colour, several events occur in several scenes, events overlap each other, and their level above the background varies by 21 dB.

    python datasets/soundscapes/synthesis.py --out=DIR [--development=18 --evaluation=8 --seed=0]

writes recordings and label lists, e.g. for listening. The builder in this folder calls `render` itself.
"""

import collections
import concurrent.futures
import csv
import dataclasses
import os
import pathlib
import shutil
from collections.abc import Callable

import numpy as np
import scipy.signal
import soundfile
from absl import app, flags

from mfl_jax.runtime.progress import progress_bar

RATE = 44_100
BANDS = 9
RECORDING_S = (12.0, 28.0)
LEVEL_DB = (-6.0, 15.0)
FADE_S = 0.01


class Draw:
    """Draws the parameters of a sound from the bands of a split."""

    def __init__(self, rng: np.random.Generator, split: str):
        self.rng = rng
        self._bands = np.arange(0 if split == "development" else 1, BANDS, 2)

    def __call__(self, low: float, high: float) -> float:
        """Draws a parameter between `low` and `high`, log-uniformly in the bands of the split."""
        position = (self.rng.choice(self._bands) + self.rng.random()) / BANDS
        return float(low * (high / low) ** position)

    def uniform(self, low: float, high: float) -> float:
        """Draws a value between `low` and `high` uniformly, regardless of the split."""
        return float(self.rng.uniform(low, high))

    def noise(self, samples: int) -> np.ndarray:
        """Draws white noise [shape=(samples,)]."""
        return self.rng.standard_normal(samples)


def _band(x, low_hz, high_hz, order=2):
    return scipy.signal.sosfilt(scipy.signal.butter(order, [low_hz, min(high_hz, 20_000)], "bandpass", fs=RATE, output="sos"), x)


def _tone(frequency_hz):
    """Returns a sine whose frequency [shape=(n,)] may change."""
    return np.sin(2 * np.pi * np.cumsum(frequency_hz) / RATE)


def _place(sounds, starts, samples):
    """Adds sounds at their start samples; cuts them off at the end."""
    out = np.zeros(samples)
    for sound, start in zip(sounds, starts, strict=True):
        if start < samples:
            out[start : start + len(sound)] += sound[: samples - start]
    return out


def _times(samples):
    """Returns the time of each sample in seconds."""
    return np.arange(samples) / RATE


def _bird(draw, samples):
    pitch, bend, pace = draw(2200, 6500), draw(0.6, 1.7), draw(4, 11)
    syllables, starts = [], np.arange(0, samples, int(RATE / pace))
    for _ in starts:
        t = np.linspace(0, 1, int(RATE / pace * draw.uniform(0.5, 0.8)))
        syllables.append(_tone(pitch * draw.uniform(0.93, 1.07) * bend**t) * np.sin(np.pi * t))
    return _place(syllables, starts, samples)


def _car_horn(draw, samples):
    pitch, second = draw(300, 560), draw(1.2, 1.5)
    harmonics = range(1, 9)
    return sum(_tone(np.full(samples, pitch * chord * k)) / k for chord in (1, second) for k in harmonics)


def _car_passing(draw, samples):
    colour, rumble = draw(250, 1100), draw(25, 60)
    near = np.exp(-np.square(np.linspace(-2, 2, samples) - draw.uniform(-0.5, 0.5)))
    road = _band(draw.noise(samples), 60, colour * 3) + 0.5 * _band(draw.noise(samples), colour, colour * 8)
    engine = scipy.signal.sawtooth(2 * np.pi * np.cumsum(rumble * (1 + 0.1 * near)) / RATE)
    return (road / np.std(road) + 0.5 * _band(engine, 30, 400)) * (0.15 + near)


def _crickets(draw, samples):
    pitch, trill, chirps = draw(3500, 7500), draw(25, 60), draw(1.2, 3.5)
    t = _times(samples)
    pulses = np.maximum(np.sin(2 * np.pi * trill * t), 0) * (np.sin(2 * np.pi * chirps * t + draw.uniform(0, 6)) > -0.3)
    return _tone(np.full(samples, pitch)) * pulses


def _dishes(draw, samples):
    size = draw(900, 3200)
    starts = np.sort(draw.rng.integers(0, max(1, samples - RATE // 10), 1 + int(samples / RATE * draw.uniform(4, 8))))
    rings = []
    for _ in starts:
        t = _times(int(RATE * draw.uniform(0.15, 0.4)))
        modes = size * np.array([1, 1.58, 2.24, 2.92, 4.1]) * draw.uniform(0.85, 1.15)
        ring = sum(np.exp(-t * draw.uniform(12, 40)) * np.sin(2 * np.pi * f * t) for f in modes if f < RATE / 2)
        rings.append(draw.uniform(0.4, 1) * ring)
    return _place(rings, starts, samples)


def _fan(draw, samples):
    blades, colour = draw(70, 200), draw(350, 1500)
    t = _times(samples)
    hum = sum(np.sin(2 * np.pi * blades * k * t + draw.uniform(0, 6)) / k for k in range(1, 7))
    return hum + 1.5 * _band(draw.noise(samples), colour / 3, colour * 2) * (1 + 0.2 * np.sin(2 * np.pi * blades / 8 * t))


def _footsteps(draw, samples):
    pace, floor = draw(1.5, 2.6), draw(180, 900)
    starts = np.arange(0, samples, RATE / pace).astype(int)
    steps = []
    for _ in starts:
        t = _times(int(0.16 * RATE))
        heel = _band(draw.noise(len(t)), floor / 2, floor * 2) * np.exp(-t * 45)
        steps.append(draw.uniform(0.6, 1) * (heel + 0.15 * draw.noise(len(t)) * np.exp(-t * 120)))
    return _place(steps, starts, samples)


def _keyboard(draw, samples):
    pace, click = draw(4, 10), draw(1800, 5500)
    gaps = draw.rng.exponential(1 / pace, int(samples / RATE * pace * 2) + 8) + 0.03
    starts = (np.cumsum(gaps) * RATE).astype(int)
    starts = np.concatenate([[0], starts[starts < samples]])
    keys = []
    for _ in starts:
        t = _times(int(0.03 * RATE))
        keys.append(draw.uniform(0.4, 1) * _band(draw.noise(len(t)), click / 1.6, click * 1.6) * np.exp(-t * 180))
    return _place(keys, starts, samples)


def _microwave_beep(draw, samples):
    pitch, pace = draw(900, 2600), draw(0.9, 2.4)
    t = _times(samples)
    return _tone(np.full(samples, pitch)) * ((t * pace) % 1 < 0.45)


def _phone(draw, samples):
    low, high, warble = draw(450, 1100), draw(1.15, 1.5), draw(10, 28)
    t = _times(samples)
    pitch = np.where(np.sin(2 * np.pi * warble * t) > 0, low, low * high)
    return (_tone(pitch) + 0.4 * _tone(3 * pitch)) * ((t % 1.5) < 1.0)


def _siren(draw, samples):
    centre, depth, sweep = draw(600, 1400), draw(1.3, 1.8), draw(0.25, 1.4)
    pitch = centre * depth ** np.sin(2 * np.pi * sweep * _times(samples) + draw.uniform(0, 6))
    return _tone(pitch) + 0.4 * _tone(2 * pitch) + 0.2 * _tone(3 * pitch)


def _speech(draw, samples):
    pitch, tract = draw(90, 240), draw(0.85, 1.25)
    pace, filled, pieces = draw(3, 5.5), 0, []
    while filled < samples:
        n = int(RATE / pace * draw.uniform(0.7, 1.3))
        t = np.linspace(0, 1, n)
        glottis = scipy.signal.sawtooth(2 * np.pi * np.cumsum(pitch * draw.uniform(0.85, 1.2) * (1 - 0.12 * t)) / RATE)
        source = glottis + 0.1 * draw.noise(n) if draw.uniform(0, 1) < 0.8 else 0.7 * draw.noise(n)
        first, second = draw.uniform(280, 800) * tract, draw.uniform(900, 2300) * tract
        formants = _band(source, first * 0.8, first * 1.25, 1) + 0.6 * _band(source, second * 0.9, second * 1.12, 1)
        pieces.append((formants + 0.25 * _band(source, 2500 * tract, 3600 * tract, 1)) * np.sin(np.pi * t) ** 0.5)
        filled += n
    return np.concatenate(pieces)[:samples]


def _water_tap(draw, samples):
    colour, splash = draw(1500, 5000), draw(6, 18)
    flow = _band(draw.noise(samples), colour / 2, colour * 3)
    points = np.arange(0, samples / RATE + 1, 1 / splash)
    gusts = np.interp(_times(samples), points, 1 + 0.35 * draw.noise(len(points)))
    return flow * np.abs(gusts)


def _wind(draw, samples):
    colour, pace = draw(150, 600), draw(0.3, 1.2)
    swell = 0.6 + 0.4 * np.sin(2 * np.pi * pace * _times(samples) + draw.uniform(0, 6))
    return _band(draw.noise(samples), 40, colour) * swell


@dataclasses.dataclass(frozen=True)
class Sound:
    """A class of sound events.

    Attributes:
      synthesise: returns a waveform of a given number of samples.
      seconds: range of its duration.
    """

    synthesise: Callable[[Draw, int], np.ndarray]
    seconds: tuple[float, float]


SOUNDS = {
    "bird": Sound(_bird, (0.5, 2.5)),
    "car horn": Sound(_car_horn, (0.4, 1.8)),
    "car passing": Sound(_car_passing, (3.0, 8.0)),
    "crickets": Sound(_crickets, (2.0, 6.0)),
    "dishes": Sound(_dishes, (0.4, 2.0)),
    "fan": Sound(_fan, (5.0, 14.0)),
    "footsteps": Sound(_footsteps, (2.0, 5.0)),
    "keyboard": Sound(_keyboard, (1.0, 5.0)),
    "microwave beep": Sound(_microwave_beep, (1.0, 4.0)),
    "phone": Sound(_phone, (1.0, 5.0)),
    "siren": Sound(_siren, (3.0, 8.0)),
    "speech": Sound(_speech, (1.0, 5.0)),
    "water tap": Sound(_water_tap, (2.0, 7.0)),
    "wind": Sound(_wind, (2.0, 6.0)),
}
EVENTS = tuple(SOUNDS)

SCENES = {
    # Events per minute, and the range of the spectral slope of the background (power ~ frequency^-slope).
    "kitchen": (
        {"dishes": 8, "water tap": 4, "microwave beep": 3, "speech": 4, "fan": 1.5, "footsteps": 2, "phone": 1}, (0.5, 1.6)
    ),
    "office": ({"keyboard": 8, "fan": 9, "phone": 3, "speech": 4, "footsteps": 2, "microwave beep": 0.7}, (0.9, 2.0)),
    "park": ({"bird": 10, "crickets": 4, "wind": 3, "footsteps": 4, "speech": 3, "siren": 0.5}, (0.6, 1.7)),
    "street": ({"car passing": 5, "car horn": 5, "siren": 2, "footsteps": 3, "speech": 3, "bird": 2, "wind": 1.5}, (0.8, 1.9)),
}  # fmt: skip


def _background(draw: Draw, samples: int, slope: float) -> np.ndarray:
    """Synthesises noise whose power falls with frequency and whose level slowly rises and falls."""
    size = scipy.fft.next_fast_len(samples, real=True)
    spectrum = scipy.fft.rfft(draw.noise(size))
    frequency_hz = np.maximum(scipy.fft.rfftfreq(size, 1 / RATE), 20)
    noise = scipy.fft.irfft(spectrum * frequency_hz ** (-slope / 2), size)[:samples]
    t = _times(samples)
    return noise / np.std(noise) * (1 + 0.25 * np.sin(2 * np.pi * draw.uniform(0.05, 0.2) * t + draw.uniform(0, 6)))


def soundscape(scene: str, split: str, rng: np.random.Generator) -> tuple[np.ndarray, list[tuple[float, float, str]]]:
    """Synthesises one recording.

    Returns:
      The waveform, float32 [shape=(samples,)] at `RATE`, and its events: onset and offset in seconds, and label.
    """
    draw = Draw(rng, split)
    rates, slopes = SCENES[scene]
    samples = int(draw.uniform(*RECORDING_S) * RATE)
    mix = _background(draw, samples, draw(*slopes))
    events = []
    fade = int(FADE_S * RATE)
    ramp = np.sin(np.linspace(0, np.pi / 2, fade)) ** 2
    for label, per_minute in rates.items():
        for _ in range(rng.poisson(per_minute * samples / RATE / 60)):
            length = int(draw.uniform(*SOUNDS[label].seconds) * RATE)
            onset = int(rng.integers(-length // 2, samples - length // 2))
            sound = SOUNDS[label].synthesise(draw, length)
            sound[:fade] *= ramp
            sound[-fade:] *= ramp[::-1]
            sound *= 10 ** (draw.uniform(*LEVEL_DB) / 20) / max(1e-9, float(np.std(sound)))
            start, end = max(0, onset), min(samples, onset + length)
            mix[start:end] += sound[start - onset : end - onset]
            events.append((start / RATE, end / RATE, label))
    mix *= 10 ** (draw.uniform(-36, -30) / 20)
    return np.clip(mix, -1, 1).astype(np.float32), sorted(events)


def render(out: pathlib.Path, recordings_per_scene: dict[str, int], *, seed: int) -> None:
    """Writes recordings and label lists: `audio/<split>/NNNN.flac` and `meta/meta_<split>.txt`.

    The folder is renamed to `out` when it is complete. The same arguments give the same samples.

    Args:
      out: folder to create.
      recordings_per_scene: for each split.
      seed: of the random generator.
    """
    part = out.with_name(f"{out.name}.part{os.getpid()}")
    shutil.rmtree(part, ignore_errors=True)
    try:
        _render(part, recordings_per_scene, seed)
        part.rename(out)
    except OSError:
        if not out.is_dir():  # otherwise another process was faster, with the same samples
            raise
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _render(out: pathlib.Path, recordings_per_scene: dict[str, int], seed: int) -> None:
    (out / "meta").mkdir(parents=True)
    jobs = []
    for split, count in recordings_per_scene.items():
        (out / "audio" / split).mkdir(parents=True)
        for number in range(count * len(SCENES)):
            jobs.append((split, f"audio/{split}/{number:04d}.flac", list(SCENES)[number % len(SCENES)], number))

    def render_recording(job):
        split, path, scene, number = job
        rng = np.random.default_rng([seed, list(recordings_per_scene).index(split), number])
        waveform, events = soundscape(scene, split, rng)
        soundfile.write(out / path, waveform, RATE, subtype="PCM_16")
        rows = [(path, scene, f"{onset:.6f}", f"{offset:.6f}", label) for onset, offset, label in events]
        return split, rows or [(path, scene, "", "", "")]

    rows = collections.defaultdict(list)
    bar = progress_bar("recordings")
    # Threads suffice: NumPy and SciPy release the GIL for most of the work.
    with concurrent.futures.ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool, bar:
        for split, recording_rows in bar.track(
            pool.map(render_recording, jobs), total=len(jobs), description="soundscapes, synthesis"
        ):
            rows[split] += recording_rows
    for split in recordings_per_scene:
        with open(out / "meta" / f"meta_{split}.txt", "w", newline="") as file:
            writer = csv.writer(file, delimiter="\t", lineterminator="\n")
            writer.writerow(("path", "scene_label", "event_start_time", "event_end_time", "event_label"))
            writer.writerows(rows[split])


if __name__ == "__main__":
    _OUT = flags.DEFINE_string("out", None, "Folder to create.", required=True)
    _DEVELOPMENT = flags.DEFINE_integer("development", 18, "Development recordings per scene.")
    _EVALUATION = flags.DEFINE_integer("evaluation", 8, "Evaluation recordings per scene.")
    _SEED = flags.DEFINE_integer("seed", 0, "Seed of the random generator.")
    app.run(
        lambda _: render(
            pathlib.Path(_OUT.value), {"development": _DEVELOPMENT.value, "evaluation": _EVALUATION.value}, seed=_SEED.value
        )
    )
