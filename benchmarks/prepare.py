"""Preparing a data set: the speed of its two stages, the size of their output, and the overhead of a Beam pipeline.

python -m benchmarks.prepare [--recordings=10] [--seconds=60] [--rounds=3] [--beam=OPTIONS]

The recordings are noise: stereo, 24 bit, 44.1 kHz. `spectrograms_one_thread` and `spectrograms` time the first stage, `shards`
the second, which uses one thread. `threads` times the complete preparation, and `pipeline` the same with a Beam pipeline (options
in `--beam`), if Apache Beam is installed. `hours_an_hour` are the hours of audio processed per hour.
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
    """Writes noise with an event of 1 s every 10 s; the first recording is for evaluation, the others for development."""
    (root / "meta").mkdir(parents=True)
    rows = []
    for number in range(recordings):
        features.write_noise(root / f"{number:04d}.wav", seconds, number)
        rows.append([f"{number:04d}.wav\tany\t{start}\t{start + 1}\tnoise\n" for start in range(0, seconds, 10)])
    for split, split_rows in (("evaluation", rows[:1]), ("development", rows[1:])):
        lines = ["\t".join(label_list.COLUMNS) + "\n", *itertools.chain.from_iterable(split_rows)]
        (root / "meta" / f"meta_{split}.txt").write_text("".join(lines))


def measure(folder: pathlib.Path, recordings: int, seconds: int, rounds: int, beam: str) -> dict:
    """Times the stages and the complete preparation on the same recordings."""
    root, numbers = folder / "recordings", itertools.count()
    write_recordings(root, recordings, seconds)
    entries = [annotation.Recording(f"{number:04d}.wav", "any", ()) for number in range(recordings)]
    cls, mel = prepare.load_builder("annotated_audio").Builder, MelConfig()

    def compute_spectrograms(jobs):
        with tempfile.TemporaryDirectory(dir=folder) as cache:
            places = {"root": root, "folder": pathlib.Path(cache)}
            return [
                spectrogram.frames
                for _, spectrogram in spectrogram_cache.cache_spectrograms(
                    entries, mel=mel, description="spectrograms", jobs=jobs, **places
                )
            ]

    def build(place):
        """Runs the builder itself, which keeps the spectrograms."""
        builder = cls(config=cls.make_config("noise"), data_dir=place, manual_dir=root)
        with contextlib.redirect_stdout(io.StringIO()):
            builder.download_and_prepare()
        return pathlib.Path(builder.data_path)

    version = build(folder / "kept")

    def write_shards():
        shutil.rmtree(version)
        build(folder / "kept")

    def prepare_all(options=""):
        place = folder / f"all{next(numbers)}"
        dataset = prepare.prepare("annotated_audio/noise", data_dir=place, manual_dir=root, beam=options)
        shutil.rmtree(place)
        return dataset.clips

    sides = {
        "spectrograms_one_thread": lambda: compute_spectrograms(1), "spectrograms": lambda: compute_spectrograms(None),
        "shards": write_shards, "threads": prepare_all,
    }  # fmt: skip
    if importlib.util.find_spec("apache_beam"):
        sides["pipeline"] = lambda: prepare_all(beam)
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
    """Returns one entry."""
    with tempfile.TemporaryDirectory() as name:
        return [measure(pathlib.Path(name), recordings, seconds, rounds, beam)]


if __name__ == "__main__":
    timing.run(results, "tensorflow-datasets", "numpy", "soundfile")
