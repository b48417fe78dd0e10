"""Recordings of any length through a network: with networks simple enough to know what must come out, and with a trained one."""

import dataclasses
import gc
import os
import resource
import signal
import threading
import time
import tracemalloc
import types
import warnings

import numpy as np
import pytest
import soundfile
import threadpoolctl

import mfl_jax
from mfl_jax.data import mel_spectrogram, prepared_dataset
from mfl_jax.errors import InputError
from mfl_jax.inference import decoding, postprocessing, spill_buffer, streaming
from mfl_jax.inference.audio_source import AudioSource
from mfl_jax.inference.prediction import Prediction, UnreadableRecording
from mfl_jax.scoring import clip_scores
from mfl_jax.training import setup
from mfl_jax.training.checkpoints import Checkpoints
from support import small

pytestmark = pytest.mark.lightly_optimised

MEL = mel_spectrogram.MelConfig(**{key: value for key, value in small.AUDIO.items() if key != "clip_s"})
CLIP = 50
BINS = {"low": 6, "high": 23}
"""Mel bins that the tones of 500 Hz and of 2 kHz fall into."""


def loudness(log_mel):
    """Scores of a network that looks at a frame alone: a rising function of the level around 500 Hz and 2 kHz."""
    return (1 / (1 + np.exp(-(log_mel[..., list(BINS.values())])))).astype(np.float32)


def frame_by_frame(batch):
    """The network of `loudness`; the scenes are the share of loud frames of `low` among the valid ones, and the rest."""
    events = loudness(batch["log_mel"])
    valid = np.arange(CLIP) < batch["valid_frames"][:, None]
    loud = ((events[..., 0] > 0.5) & valid).sum(1) / np.maximum(batch["valid_frames"], 1)
    return np.float32(np.stack([loud, 1 - loud], axis=1)), events


def network(probabilities=frame_by_frame, scenes=("loud", "quiet"), events=tuple(BINS)):
    """What `listen` needs of a model."""
    return types.SimpleNamespace(
        mel=MEL, clip_frames=CLIP, scenes=scenes, events=events, probabilities=probabilities,
        config=types.SimpleNamespace(threshold=0.5),
    )  # fmt: skip


def noise(samples, seed=0):
    return 0.1 * np.random.default_rng(seed).standard_normal(samples).astype(np.float32)


@pytest.fixture
def record(tmp_path):
    """Writes samples to a file and returns it as a source."""

    def write(name, samples, rate=small.RATE, **how):
        soundfile.write(tmp_path / name, samples, rate, subtype="FLOAT" if name.endswith(".wav") else None, **how)
        return AudioSource(name, tmp_path / name)

    return write


def heard(model, sources, **how):
    """All results by the name of their recording."""
    results = list(streaming.predict_recordings(model, sources, **{"rules": {}, **how}))
    named = {result.source.name if isinstance(result, UnreadableRecording) else result.recording: result for result in results}
    assert len(results) == len(named) == len(sources)
    return named


def same(one, other):
    for field in dataclasses.fields(Prediction):
        np.testing.assert_array_equal(getattr(one, field.name), getattr(other, field.name), err_msg=field.name)


def open_files():
    return len(os.listdir("/proc/self/fd"))


LENGTHS = (1, 159, 160, 161, 7999, 8000, 8001, 8160, 11_999, 12_000, 12_001, 20_800, 100_003)
OVERLAPS = (0.0, 0.1, 0.25, 0.3, 0.5, 0.6, 0.75, 0.9, 0.98, 0.999)


@pytest.mark.parametrize("overlap", OVERLAPS)
def test_a_network_of_frames_hears_the_same_with_any_overlap(record, overlap):
    waves = {f"{samples}.wav": noise(samples, samples) for samples in LENGTHS}
    found = heard(network(), [record(name, wave) for name, wave in waves.items()], overlap=overlap, keep_clips=True)
    for name, wave in waves.items():
        result, expected = found[name], loudness(mel_spectrogram.compute_log_mel(wave, MEL))
        assert result.duration_s == len(wave) / small.RATE and result.frame_scores.dtype == np.float32
        assert result.frame_scores.shape == (-(-len(wave) // MEL.hop_samples), 2)
        np.testing.assert_allclose(result.frame_scores, expected, rtol=0, atol=1e-6)
        if result.clip_scores is not None:
            np.testing.assert_allclose(result.clip_scores, expected, rtol=0, atol=1e-6)
        assert (result.clip_scores is None) == (CLIP % streaming.window_stride(CLIP, overlap) != 0)


@pytest.mark.parametrize("overlap", OVERLAPS)
def test_the_windows_cover_the_recording(record, overlap):
    stride = streaming.window_stride(CLIP, overlap) * MEL.hop_s
    for result in heard(network(), [record(f"{n}.wav", noise(n)) for n in LENGTHS], overlap=overlap).values():
        start, end = result.window_start_s, result.window_end_s
        np.testing.assert_allclose(np.diff(start) / stride, np.round(np.diff(start) / stride), atol=1e-9)
        assert start[0] == 0 and end.max() == result.duration_s
        assert (start < end).all() and (start[1:] <= end[:-1] + 1e-9).all()
        assert len(start) == len(end) == len(result.window_scenes)


def test_the_scene_of_a_recording_is_the_mean_over_its_windows_by_their_length(record):
    # Two clips and a fifth of one: silence, then a tone.
    t = np.arange(17_600) / small.RATE
    wave = 0.5 * np.sin(2 * np.pi * 500 * t) * (t >= 1.0)
    (result,) = heard(network(), [record("a.wav", wave)], overlap=0).values()
    np.testing.assert_allclose(result.window_scenes[:, 0], [0, 1, 1], atol=0.021)  # the tone starts half a frame early
    expected = (50 * result.window_scenes[0] + 50 * result.window_scenes[1] + 10 * result.window_scenes[2]) / 110
    np.testing.assert_allclose(result.scene, expected, atol=1e-6)
    assert result.scene_label == "loud" and result.scene.dtype == np.float32
    np.testing.assert_array_equal(result.clips, [0, 1, 2])


def test_overlapping_windows_fade_into_one_another(record):
    """A network whose score is the number of its window shows the weights of the windows."""
    number = iter(range(10**6))

    def by_number(batch):
        scores = [np.full((CLIP, 2), next(number) if there else 0, np.float32) for there in batch["clip_mask"]]
        return None, np.stack(scores)

    (result,) = heard(network(by_number, scenes=()), [record("a.wav", noise(8 * 4000))], overlap=0.5, rules={}).values()
    scores = result.frame_scores[:, 0]
    # Half a window of the first alone; then from one to the next, evenly, as one has the weight of what the other lacks.
    np.testing.assert_array_equal(scores[:25], 0)
    ramp = np.arange(1, 26) / (np.arange(1, 26) + np.arange(25, 0, -1))
    for window in range(6):
        np.testing.assert_allclose(scores[25 * (window + 1) : 25 * (window + 2)], window + ramp, atol=1e-6)
    assert np.diff(scores).max() < 2 / 25


@pytest.mark.parametrize("overlap", [0.0, 0.3, 0.5, 0.9])
def test_an_event_across_the_borders_of_windows_is_one_event(record, overlap):
    t = np.arange(5 * small.RATE) / small.RATE
    wave = 0.5 * np.sin(2 * np.pi * 500 * t) * ((t >= 0.4) & (t < 3.7)) + 0.5 * np.sin(2 * np.pi * 2000 * t) * (t >= 4.5)
    (result,) = heard(network(), [record("a.wav", wave)], overlap=overlap).values()
    assert [event.label for event in result.detected] == ["low", "high"]
    bounds = [(event.onset_s, event.offset_s) for event in result.detected]
    np.testing.assert_allclose(bounds, [(0.4, 3.7), (4.5, 5.0)], atol=0.021)
    assert bounds[1][1] == 5.0 and all(event.confidence > 0.5 for event in result.detected)


def test_rules_are_those_of_each_event(record):
    t = np.arange(2 * small.RATE) / small.RATE
    wave = 0.5 * (np.sin(2 * np.pi * 500 * t) + np.sin(2 * np.pi * 2000 * t)) * ((t >= 0.5) & (t < 0.7))
    rules = {"low": postprocessing.Rule(min_duration_s=0.5)}
    (result,) = heard(network(), [record("a.wav", wave)], rules=rules).values()
    assert [event.label for event in result.detected] == ["high"]


@pytest.mark.parametrize("samples", [1, 160, 8000, 30_000])
def test_silence_is_heard_as_silence(record, samples):
    (result,) = heard(network(), [record("a.wav", np.zeros(samples, np.float32))]).values()
    assert result.frame_scores.max() < 1e-6 and result.detected == () and result.scene_label == "quiet"


@pytest.mark.parametrize("rate", [44_100, 11_025, 96_000])
def test_other_rates_and_channels_keep_their_length(record, rate):
    t = np.arange(round(2.345 * rate)) / rate
    tone = 0.5 * np.sin(2 * np.pi * 500 * t) * (t >= 1)
    (result,) = heard(network(), [record("a.wav", np.stack([tone, tone], axis=1), rate)]).values()
    assert result.duration_s == pytest.approx(len(t) / rate, abs=1 / small.RATE)
    assert len(result.frame_scores) == -(-round(result.duration_s * small.RATE) // MEL.hop_samples)
    (event,) = result.detected
    assert event.label == "low" and abs(event.onset_s - 1) < 0.021 and event.offset_s == pytest.approx(result.duration_s)


@pytest.mark.parametrize("keep", [False, True])
def test_recordings_heard_together_do_not_mix(record, keep):
    lengths = [1, 90_000, 400, 8000, 8001, 33_333, 250_000, 160, 12_345, 4000, 4001, 70_001, 5]
    sources = [record(f"{number}.wav", noise(samples, number)) for number, samples in enumerate(lengths)]
    for overlap in (0, 0.5):
        together = heard(network(), sources, overlap=overlap, keep_clips=keep)
        for source in sources:
            same(together[source.name], heard(network(), [source], overlap=overlap, keep_clips=keep)[source.name])


def test_nothing_to_hear_is_heard_at_once():
    assert list(streaming.predict_recordings(network(), [], rules={})) == []


@pytest.mark.parametrize("overlap", [-0.1, 1.0, 1.5, float("nan"), float("inf")])
def test_an_overlap_that_is_no_share_is_refused(record, overlap):
    with pytest.raises(InputError, match="overlap must be at least 0 and below 1"):
        list(streaming.predict_recordings(network(), [record("a.wav", noise(100))], rules={}, overlap=overlap))


# Recordings that can't be read.


@pytest.fixture
def broken(record, tmp_path):
    """Good recordings among bad ones; the sources, and what the reason of each bad one says."""
    late = noise(800_000)
    late[720_001] = np.nan  # windows of 80 s are handed on before it is seen
    (tmp_path / "text.wav").write_text("no sound at all")
    (tmp_path / "none.wav").write_bytes(b"")
    (tmp_path / "folder.wav").mkdir()
    sources = [
        record("a.wav", noise(30_000, 1)),
        record("late.wav", late),
        AudioSource("text.wav", tmp_path / "text.wav"),
        record("b.wav", noise(100_000, 2)),
        AudioSource("missing.wav", tmp_path / "missing.wav"),
        AudioSource("none.wav", tmp_path / "none.wav"),
        record("empty.wav", noise(0)),
        AudioSource("folder.wav", tmp_path / "folder.wav"),
        record("c.wav", noise(10, 3)),
    ]
    reasons = {
        "late.wav": "sample 720001 (90.000 s) is no finite number", "text.wav": "not readable as audio", "missing.wav": "no such",
        "none.wav": "not readable as audio", "empty.wav": "empty (0 samples)", "folder.wav": "no such recording",
    }  # fmt: skip
    return sources, reasons


def test_recordings_that_cannot_be_read_do_not_touch_the_others(broken):
    sources, reasons = broken
    found = heard(network(), sources, keep_clips=True)
    for source in sources:
        result = found[source.name]
        if source.name in reasons:
            assert isinstance(result, UnreadableRecording) and result.source == source
            assert reasons[source.name] in result.reason and str(source.file) in result.reason and "\n" not in result.reason
        else:
            same(result, heard(network(), [source], keep_clips=True)[source.name])


def test_scores_of_a_refused_recording_are_closed(broken):
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always", ResourceWarning)
        heard(network(), broken[0])
        gc.collect()
    assert [str(warning.message) for warning in warned] == []


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_name_in_another_encoding_does_not_touch_the_others(record, tmp_path):
    good = record("a.wav", noise(9000))
    name = os.fsdecode(b"caf\xe9.wav")  # as a Latin-1 system wrote it
    good.file.with_name(name).write_bytes(good.file.read_bytes())
    found = heard(network(), [good, AudioSource(name, tmp_path / name)])
    assert isinstance(found["a.wav"], Prediction)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_disk_that_fails_under_one_recording_does_not_touch_the_others(record, monkeypatch):
    good, bad = record("a.wav", noise(9000)), record("bad.wav", noise(9000))
    stream = decoding.audio_reader.stream_mono

    def failing(path, rate):
        if path == bad.file:
            raise OSError(5, "Input/output error")
        return stream(path, rate)

    monkeypatch.setattr(decoding.audio_reader, "stream_mono", failing)
    found = heard(network(), [good, bad])
    assert isinstance(found["a.wav"], Prediction) and isinstance(found["bad.wav"], UnreadableRecording)


# Progress.


@pytest.mark.parametrize("overlap", [0.0, 0.3, 0.5, 0.75])
def test_the_seconds_heard_add_up_to_the_length(record, overlap):
    for samples in (1, 7999, 8000, 8001, 12_000, 20_000, 23_200):
        seconds = []
        heard(network(), [record("a.wav", noise(samples))], overlap=overlap, on_progress=seconds.append)
        assert sum(seconds) == pytest.approx(samples / small.RATE, abs=MEL.hop_s)


# Stopping in the middle.


@pytest.fixture
def untouched():
    """A test leaves no thread and no open file, and products as many threads as they had."""

    def limits():
        return [(pool["filepath"], pool["num_threads"]) for pool in threadpoolctl.threadpool_info()]

    gc.collect()
    threads, files, products = set(threading.enumerate()), open_files(), limits()
    yield
    deadline = time.monotonic() + 10
    while (set(threading.enumerate()) - threads or open_files() > files) and time.monotonic() < deadline:
        gc.collect()
        time.sleep(0.05)
    assert set(threading.enumerate()) <= threads and open_files() <= files and limits() == products


def test_closing_early_ends_the_threads(record, untouched):
    sources = [record("short.wav", noise(900)), *(record(f"{number}.wav", noise(10**6, number)) for number in range(4))]
    results = streaming.predict_recordings(network(), sources, rules={})
    assert next(results).recording == "short.wav"
    alive = threading.active_count()
    results.close()
    assert threading.active_count() < alive


def test_leaving_a_loop_early_ends_the_threads(record, untouched):
    sources = [record("short.wav", noise(900)), record("long.wav", noise(10**6))]
    for result in streaming.predict_recordings(network(), sources, rules={}):
        assert result.recording == "short.wav"
        break


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, MemoryError, SystemExit])
def test_an_error_of_the_network_ends_all(record, untouched, error):
    calls = []

    def failing(batch):
        calls.append(len(calls))
        if len(calls) == 3:
            raise error
        return frame_by_frame(batch)

    with pytest.raises(error):
        list(streaming.predict_recordings(network(failing), [record(f"{n}.wav", noise(10**6, n)) for n in range(3)], rules={}))
    assert len(calls) == 3


def test_an_interrupt_ends_all(record, untouched):
    def interrupted(seconds):
        # Where the tests run in the background, interrupts are ignored.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            signal.raise_signal(signal.SIGINT)
        finally:
            signal.signal(signal.SIGINT, before)

    with pytest.raises(KeyboardInterrupt):
        list(
            streaming.predict_recordings(
                network(), [record(f"{n}.wav", noise(10**6, n)) for n in range(3)], rules={}, on_progress=interrupted
            )
        )


def test_a_consumer_that_takes_its_time_gets_all(record, untouched):
    sources = [record(f"{number}.wav", noise(40_000 + number, number)) for number in range(6)]
    lengths = {}
    for result in streaming.predict_recordings(network(), sources, rules={}):
        time.sleep(0.15)  # longer than the threads wait for a place in the queue
        lengths[result.recording] = round(result.duration_s * small.RATE)
        del result
    assert lengths == {f"{number}.wav": 40_000 + number for number in range(6)}


def test_listening_twice_at_once_leaves_the_threads_of_products_as_they_were(record, untouched):
    with threadpoolctl.threadpool_limits(2):
        before = [pool["num_threads"] for pool in threadpoolctl.threadpool_info()]
        one, other = (streaming.predict_recordings(network(), [record(f"{n}.wav", noise(900))], rules={}) for n in range(2))
        next(one), next(other)
        one.close(), other.close()
        assert [pool["num_threads"] for pool in threadpoolctl.threadpool_info()] == before


def test_predictions_of_many_recordings_can_be_kept(record):
    sources = [record(f"{number}.wav", noise(200)) for number in range(60)]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (open_files() + 40, hard))
    try:
        assert len(list(streaming.predict_recordings(network(), sources, rules={}))) == 60
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# Memory.


def peak_bytes(source):
    """The most memory that Python and NumPy hold at a time while a recording is heard, and its result."""
    gc.collect()
    tracemalloc.start()
    try:
        (result,) = heard(network(), [source], keep_clips=True).values()
        return tracemalloc.get_traced_memory()[1], result
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_the_recording(tmp_path, monkeypatch):
    monkeypatch.setattr(spill_buffer, "MAX_MEMORY_BYTES", 0)  # what is more than a few minutes goes into a file
    peaks = []
    for minutes in (1, 2, 30):  # the first one imports what is needed
        file = tmp_path / f"{minutes}.flac"
        with soundfile.SoundFile(file, "w", small.RATE, 1) as out:
            for minute in range(minutes):
                out.write(noise(60 * small.RATE, minute))
        peak, result = peak_bytes(AudioSource(file.name, file))
        assert result.duration_s == 60 * minutes and len(result.frame_scores) == 3000 * minutes
        assert isinstance(result.frame_scores, np.memmap)
        peaks.append(peak)
    # 28 minutes more are 54 MB of samples, 11 MB of spectrogram and 672 kB of scores of each kind. A few numbers a window stay.
    assert peaks[2] - peaks[1] < 4e6 and peaks[2] < 12e6, peaks


def test_decoding_does_not_run_ahead_of_the_network(record, monkeypatch):
    stream, decoded, seen = decoding.audio_reader.stream_mono, [], []

    def counted(path, rate):
        for block in stream(path, rate):
            decoded.append(len(block) / rate)
            yield block

    def slow(batch):
        if not seen:
            time.sleep(0.5)  # time to decode all of it many times over
            seen.append(sum(decoded))
        return frame_by_frame(batch)

    monkeypatch.setattr(decoding.audio_reader, "stream_mono", counted)
    heard(network(slow), [record("a.wav", noise(600 * small.RATE))])
    # The batch at work, those that wait, and the block that is being cut.
    waiting = 3 * streaming.batch_size() * 0.5 + 2 * decoding.audio_reader.BLOCK_S
    assert seen[0] <= waiting < 100 and sum(decoded) == 600


# With a trained network.


@pytest.fixture(scope="module")
def model(trained_run):
    return mfl_jax.load(trained_run[0])


@pytest.fixture(scope="module")
def dataset(trained_run):
    return prepared_dataset.open_dataset("annotated_audio/small", trained_run[1] / "data")


@pytest.fixture(scope="module")
def evaluation(trained_run, dataset):
    """The recordings of the evaluation split as they were before they were prepared."""
    root = trained_run[1] / "recordings"
    return [AudioSource(recording.path, root / recording.path) for recording in dataset.recordings("evaluation")]


@pytest.mark.parametrize("overlap", [0.0, 0.5, 0.9, 0.98])
def test_the_clips_of_a_data_set_have_the_scores_of_evaluating(model, dataset, evaluation, overlap):
    clips = dataset.read("evaluation")
    expected = clip_scores.recording_probabilities(model, clips, np.arange(len(clips)))
    scenes = {}
    for number, _, scene, _ in clip_scores.clip_probabilities(model, clips, np.arange(len(clips))):
        scenes.setdefault(str(clips.recording[number]), []).append((clips.clip_start_s[number], scene))
    found = heard(model, evaluation, overlap=overlap, keep_clips=True)
    assert set(found) == set(expected) and len(found) == 4
    for name, result in found.items():
        np.testing.assert_allclose(result.clip_scores, expected[name][0], rtol=0, atol=1e-6)
        by_clip = sorted(scenes[name], key=lambda part: part[0])
        np.testing.assert_allclose(result.window_start_s[result.clips], [start for start, _ in by_clip], atol=1e-9)
        np.testing.assert_allclose(result.window_scenes[result.clips], [scene for _, scene in by_clip], rtol=0, atol=1e-6)
        if overlap == 0:
            np.testing.assert_array_equal(result.frame_scores, result.clip_scores)
        else:
            assert np.abs(result.frame_scores - result.clip_scores).max() > 1e-6  # it is another way of listening


def test_a_recording_no_longer_than_a_clip_is_a_call_of_the_model(model, record):
    for samples in (1, 1000, 7999, 8000):
        (result,) = heard(model, [record(f"{samples}.wav", wave := noise(samples))], overlap=0).values()
        scene, event = model(mel_spectrogram.compute_log_mel(wave, MEL))
        np.testing.assert_allclose(result.frame_scores, event, rtol=0, atol=1e-6)
        np.testing.assert_allclose(result.scene, scene, rtol=0, atol=1e-6)


def test_a_trained_network_mixes_no_recordings_either(model, broken, evaluation):
    together = heard(model, [*broken[0], *evaluation])
    for source in [*broken[0], *evaluation]:
        if source.name not in broken[1]:
            alone, result = heard(model, [source])[source.name], together[source.name]
            np.testing.assert_allclose(result.frame_scores, alone.frame_scores, rtol=0, atol=1e-6)
            np.testing.assert_allclose(result.window_scenes, alone.window_scenes, rtol=0, atol=1e-6)


@pytest.mark.parametrize("samples", [1, 8000, 30_000])
def test_silence_gives_numbers(model, record, samples):
    (result,) = heard(model, [record("a.wav", np.zeros(samples, np.float32))]).values()
    assert np.isfinite(result.frame_scores).all() and np.isfinite(result.window_scenes).all()
    assert result.scene.sum() == pytest.approx(1, abs=1e-5) and 0 <= result.frame_scores.min() <= result.frame_scores.max() <= 1


def test_predict_is_listening_to_one_recording(model, evaluation, tmp_path):
    source = evaluation[0]
    alone = heard(model, [AudioSource(source.file.name, source.file)])[source.file.name]
    same(model.predict(source.file), alone)
    same(model.predict(str(source.file), overlap=0.5), alone)
    assert len(model.predict(source.file, overlap=0).window_start_s) < len(alone.window_start_s)
    low = model.predict(source.file, rules={label: postprocessing.Rule(threshold=1e-6) for label in model.events})
    assert sorted(event.label for event in low.detected) == ["high", "low"]
    assert all((event.onset_s, event.offset_s) == (0, alone.duration_s) for event in low.detected)
    with pytest.raises(InputError, match=r"missing\.wav: no such recording"):
        model.predict(tmp_path / "missing.wav")


@pytest.mark.parametrize("task", ["scene", "event"])
def test_a_network_of_one_task_hears_its_task_alone(trained_run, dataset, evaluation, tmp_path, task):
    config = small.small_config(trained_run[1], tasks=(task,))
    state = setup.initial_state(config, dataset)[1]
    with Checkpoints(tmp_path / "checkpoints", keep=2) as checkpoints:
        checkpoints.save(state, {**setup.checkpoint_metadata(config, dataset), "epoch": 0})
    model = mfl_jax.load(tmp_path)
    for result in heard(model, evaluation[:2], keep_clips=True).values():
        if task == "scene":
            assert result.scenes == ("busy", "calm") and result.scene_label in result.scenes
            assert result.events == () and result.detected == () and result.frame_scores.shape == (130, 0)
        else:
            assert result.events == ("high", "low") and result.frame_scores.shape == (130, 2)
            assert np.isfinite(result.frame_scores).all() and result.frame_scores.any()
            assert result.scenes == () and result.scene_label is None and result.scene.shape == (0,)
            assert result.window_scenes.shape == (len(result.window_start_s), 0)
