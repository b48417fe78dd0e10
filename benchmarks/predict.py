"""Predicting scenes and events from recordings: speed relative to real time, and peak memory by length of a recording.

python -m benchmarks.predict [--recordings=12] [--seconds=300] [--channels=128] [--rounds=3] [--lengths_min=10,600]

The recordings are noise: stereo, 24 bit, 44.1 kHz. The network is the paper's, untrained. `overlap_0` and `overlap_half` time the
complete prediction; `features` times decoding and spectrograms in one thread, `network` the network on as many windows.
"""

import pathlib
import tempfile

import jax

from benchmarks import features, timing, workload
from mfl_jax.data import audio_reader
from mfl_jax.data import mel_spectrogram as log_mels
from mfl_jax.inference import streaming
from mfl_jax.inference.audio_source import AudioSource
from mfl_jax.inference.trained_model import TrainedModel
from mfl_jax.training import setup


def build_untrained_model(channels: int) -> TrainedModel:
    """Builds the proposed system with random parameters, in the form of a loaded model."""
    config, dataset = workload.make_config(channels=channels), workload.make_dataset()
    setup.configure_process(config)
    graphdef, state = setup.initial_state(config, dataset)
    state = jax.device_get(state)
    return TrainedModel(
        directory=pathlib.Path(), step=0, which="last", config=config, scenes=dataset.scenes, events=dataset.events,
        fingerprint="",
        mel=dataset.mel, clip_frames=dataset.clip_frames, graphdef=graphdef, params=state.params,
        batch_stats=state.batch_stats, feature_stats=state.feature_stats,
    )  # fmt: skip


def compare(folder: pathlib.Path, recordings: int, seconds: int, channels: int, rounds: int) -> dict:
    """Times the complete prediction with and without overlap, and its two parts."""
    sources = [AudioSource(f"{number:04d}.wav", folder / f"{number:04d}.wav") for number in range(recordings)]
    for number, source in enumerate(sources):
        features.write_noise(source.file, seconds, number)
    model = build_untrained_model(channels)
    size = streaming.batch_size()
    batch = jax.device_put(
        {k: workload.make_batch(workload.make_dataset(), size)[k] for k in ("log_mel", "valid_frames", "clip_mask")}
    )
    windows = recordings * -(-seconds // 10)

    def predict_all(overlap):
        return [result.duration_s for result in streaming.predict_recordings(model, sources, overlap=overlap, rules={})]

    def compute_spectrograms():
        with log_mels.one_core_per_thread():
            for source in sources:
                for _ in log_mels.stream_log_mel(audio_reader.stream_mono(source.file, model.mel.sample_rate_hz), model.mel):
                    pass

    times = timing.alternate(
        {
            "overlap_0": lambda: predict_all(0.0),
            "overlap_half": lambda: predict_all(0.5),
            "features": compute_spectrograms,
            "network": lambda: [jax.device_get(model.probabilities(batch)) for _ in range(-(-windows // size))],
        },
        rounds,
    )
    real_time = {f"{name}_times_real_time": recordings * seconds / side["median_s"] for name, side in times.items()}
    return {"recordings": recordings, "seconds": seconds, "channels": channels, **times, **real_time}


def memory(folder: pathlib.Path, minutes: int, channels: int) -> dict:
    """Peak memory of a process that predicts one recording, with overlap."""
    file = folder / "long.w64"  # WAV is limited to 4 GB
    features.write_noise(file, 60 * minutes, 0)
    code = (
        "import pathlib, sys; from benchmarks import predict; from mfl_jax.inference import audio_source, streaming; "
        f"model = predict.build_untrained_model({channels}); "
        "source = audio_source.AudioSource('long', pathlib.Path(sys.argv[1])); "
        "(result,) = streaming.predict_recordings(model, [source], rules={}); assert len(result.frame_scores)"
    )
    return {"recording_min": minutes, "peak_memory_mb": timing.peak_memory_mb(code, file)}


def results(*, recordings=12, seconds=300, channels=128, rounds=3, lengths_min=(10, 600)) -> list[dict]:
    """Returns the times, and one entry per length of recording."""
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        compared = compare(folder, recordings, seconds, channels, rounds)
        return [compared, *(memory(folder, minutes, channels) for minutes in lengths_min)]


if __name__ == "__main__":
    timing.run(results, "soundfile", "soxr")
