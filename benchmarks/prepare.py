"""Preparing a data set: how fast each of its two stages is, how many bytes they make, and what a Beam pipeline costs.

python -m benchmarks.prepare [--recordings=10] [--seconds=60] [--rounds=3] [--beam=OPTIONS]

The recordings are noise: stereo, 24 bit, 44.1 kHz. `spectrograms_one_thread` and `spectrograms` are the first stage, `shards` is
the second, in one thread; `threads` is the whole preparation, and `pipeline` the same by the Beam pipeline of `--beam`, where
Apache Beam is installed. `hours_an_hour` are hours of audio that an hour gets through.
"""

import contextlib
import importlib.util
import io
import itertools
import pathlib
import shutil
import tempfile

from benchmarks import features, timing
from mfl_jax.data import annotation, label_list, prepare, spectrogram_cache
from mfl_jax.data.builder import SPECTROGRAMS
from mfl_jax.data.mel_spectrogram import MelConfig

BEAM = "--runner=DirectRunner --direct_num_workers=2 --direct_running_mode=multi_processing"


def write_recordings(root: pathlib.Path, recordings: int, seconds: int) -> None:
    """Writes noise with an event of a second every ten seconds; the first recording is for evaluation."""
    (root / "meta").mkdir(parents=True)
    rows = []
    for number in range(recordings):
        features.write_noise(root / f"{number:04d}.wav", seconds, number)
        rows.append([f"{number:04d}.wav\tany\t{start}\t{start + 1}\tnoise\n" for start in range(0, seconds, 10)])
    for split, some in (("evaluation", rows[:1]), ("development", rows[1:])):
        lines = ["\t".join(label_list.COLUMNS) + "\n", *itertools.chain.from_iterable(some)]
        (root / "meta" / f"meta_{split}.txt").write_text("".join(lines))


def measure(folder: pathlib.Path, recordings: int, seconds: int, rounds: int, beam: str) -> dict:
    """Times the stages and the whole on the same recordings."""
    root, numbers = folder / "recordings", itertools.count()
    write_recordings(root, recordings, seconds)
    listed = [annotation.Recording(f"{number:04d}.wav", "any", ()) for number in range(recordings)]
    cls, mel = prepare.load_builder("annotated_audio").Builder, MelConfig()

    def compute(jobs):
        with tempfile.TemporaryDirectory(dir=folder) as kept:
            places = {"root": root, "folder": pathlib.Path(kept)}
            return [
                made.frames
                for _, made in spectrogram_cache.cache_spectrograms(
                    listed, mel=mel, description="spectrograms", jobs=jobs, **places
                )
            ]

    def build(place):
        """By the builder itself, which leaves the spectrograms."""
        builder = cls(config=cls.make_config("noise"), data_dir=place, manual_dir=root)
        with contextlib.redirect_stdout(io.StringIO()):
            builder.download_and_prepare()
        return pathlib.Path(builder.data_path)

    version = build(folder / "kept")

    def shards():
        shutil.rmtree(version)
        build(folder / "kept")

    def whole(options=""):
        place = folder / f"whole{next(numbers)}"
        made = prepare.prepare("annotated_audio/noise", data_dir=place, manual_dir=root, beam=options)
        shutil.rmtree(place)
        return made.clips

    sides = {
        "spectrograms_one_thread": lambda: compute(1), "spectrograms": lambda: compute(None), "shards": shards,
        "threads": whole,
    }  # fmt: skip
    if importlib.util.find_spec("apache_beam"):
        sides["pipeline"] = lambda: whole(beam)
    times = timing.alternate(sides, rounds)
    hours = recordings * seconds / 3600

    def megabytes_an_hour(place, pattern):
        return sum(file.stat().st_size for file in place.glob(pattern)) / 1e6 / hours

    return {
        "recordings": recordings, "seconds": seconds, **times,
        "hours_an_hour": {name: hours / (side["median_s"] / 3600) for name, side in times.items()},
        "pipeline_extra_s": times["pipeline"]["median_s"] - times["threads"]["median_s"] if "pipeline" in times else None,
        "recordings_mb_an_hour": megabytes_an_hour(root, "*.wav"),
        "spectrograms_mb_an_hour": megabytes_an_hour(version.parent / SPECTROGRAMS, "*/*"),
        "plans_mb_an_hour": megabytes_an_hour(version.parent / SPECTROGRAMS, "*.json"),
        "shards_mb_an_hour": megabytes_an_hour(version, "*.array_record*"),
    }  # fmt: skip


def results(*, recordings=10, seconds=60, rounds=3, beam=BEAM) -> list[dict]:
    """The one entry."""
    with tempfile.TemporaryDirectory() as name:
        return [measure(pathlib.Path(name), recordings, seconds, rounds, beam)]


if __name__ == "__main__":
    timing.run(results, "tensorflow-datasets", "numpy", "soundfile")
