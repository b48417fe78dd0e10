"""Decoding threads: recordings that can't be read, ends and errors in the middle, and the bound on decoded windows."""

import gc
import os
import resource
import signal
import threading
import time
import warnings

import numpy as np
import pytest
import threadpoolctl

from mfl_jax.data import audio_reader
from mfl_jax.inference import streaming
from mfl_jax.inference.audio_source import AudioSource
from mfl_jax.inference.prediction import Prediction, UnreadableRecording
from support import small
from support.frame_network import assert_same_prediction, frame_by_frame, network, noise, predict_all

pytestmark = pytest.mark.lightly_optimised

LONG = 400_000
"""Samples of a recording that is still being decoded when the first results are out: 100 windows, more than may wait."""


def count_open_files():
    return len(os.listdir("/proc/self/fd"))


# Recordings that can't be read.


@pytest.fixture
def mixed(record, tmp_path):
    """Sources of readable and unreadable recordings, and part of the reason of each unreadable one by its name."""
    late = noise(800_000)
    late[720_001] = np.nan  # windows of 80 s come before it
    (tmp_path / "text.wav").write_text("not audio")
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
        "late.wav": "sample 720001 (90.000 s)", "text.wav": "not readable as audio", "missing.wav": "no such",
        "none.wav": "not readable as audio", "empty.wav": "empty (0 samples)", "folder.wav": "not readable (a folder)",
    }  # fmt: skip
    return sources, reasons


def test_unreadable_recordings_do_not_affect_the_others(mixed):
    sources, reasons = mixed
    results = predict_all(network(), sources, keep_clips=True)
    for source in sources:
        result = results[source.name]
        if source.name in reasons:
            assert isinstance(result, UnreadableRecording) and result.source == source
            assert reasons[source.name] in result.reason and str(source.file) in result.reason and "\n" not in result.reason
        else:
            alone = predict_all(network(), [source], keep_clips=True)[source.name]
            assert_same_prediction(result, alone, atol=1e-6)


def test_scores_of_an_unreadable_recording_are_closed(mixed):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ResourceWarning)
        predict_all(network(), mixed[0])
        gc.collect()
    assert [str(warning.message) for warning in caught] == []


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_file_name_in_another_encoding_does_not_affect_the_others(record, tmp_path):
    good = record("a.wav", noise(9000))
    name = os.fsdecode(b"caf\xe9.wav")  # as a Latin-1 system writes it
    good.file.with_name(name).write_bytes(good.file.read_bytes())
    results = predict_all(network(), [good, AudioSource(name, tmp_path / name)])
    assert isinstance(results["a.wav"], Prediction)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_disk_error_in_one_recording_does_not_affect_the_others(record, monkeypatch):
    good, bad = record("a.wav", noise(9000)), record("bad.wav", noise(9000))
    stream = audio_reader.stream_mono

    def fail_on_bad(path, rate, on_warning):
        if path == bad.file:
            raise OSError(5, "Input/output error", str(path))
        return stream(path, rate, on_warning)

    monkeypatch.setattr(audio_reader, "stream_mono", fail_on_bad)
    results = predict_all(network(), [good, bad])
    assert isinstance(results["a.wav"], Prediction) and isinstance(results["bad.wav"], UnreadableRecording)
    assert results["bad.wav"].reason == f"{bad.file}: not readable (Input/output error)"


def test_the_warning_of_a_recording_is_printed_and_kept(record, capsys):
    results = predict_all(network(), [record("a.wav", noise(9000)), record("loud.wav", 2.0**15 * np.sign(noise(9000)))])
    warning = "its samples reach 32768 times full scale; rescale them to +-1 if they are integers stored as floats"
    assert (results["a.wav"].warning, results["loud.wav"].warning) == ("", warning)
    assert capsys.readouterr().err == f"warning: loud.wav: {warning}\n"


# Stopping in the middle.


@pytest.fixture
def no_leaks():
    """Checks that a test leaves no thread and no open file, and the number of threads of matrix products as it was."""

    def read_limits():
        return [(pool["filepath"], pool["num_threads"]) for pool in threadpoolctl.threadpool_info()]

    gc.collect()
    threads, files, limits = set(threading.enumerate()), count_open_files(), read_limits()
    yield
    deadline = time.monotonic() + 10
    while (set(threading.enumerate()) - threads or count_open_files() > files) and time.monotonic() < deadline:
        gc.collect()
        time.sleep(0.05)
    assert set(threading.enumerate()) <= threads and count_open_files() <= files and read_limits() == limits


@pytest.fixture
def long_sources(record):
    return [record(f"{number}.wav", noise(LONG, number)) for number in range(3)]


def test_closing_early_ends_the_threads(record, long_sources, no_leaks):
    results = streaming.predict_recordings(network(), [record("short.wav", noise(900)), *long_sources], rules={})
    assert next(results).recording == "short.wav"
    alive = threading.active_count()
    results.close()
    assert threading.active_count() < alive


def test_leaving_a_loop_early_ends_the_threads(record, long_sources, no_leaks):
    for result in streaming.predict_recordings(network(), [record("short.wav", noise(900)), long_sources[0]], rules={}):
        assert result.recording == "short.wav"
        break


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, MemoryError, SystemExit])
def test_network_error_ends_the_prediction(long_sources, no_leaks, error):
    calls = []

    def fail_on_third_call(batch):
        calls.append(len(calls))
        if len(calls) == 3:
            raise error
        return frame_by_frame(batch)

    with pytest.raises(error):
        list(streaming.predict_recordings(network(fail_on_third_call), long_sources, rules={}))
    assert len(calls) == 3


def test_interrupt_ends_the_prediction(long_sources, no_leaks):
    def interrupt(seconds):
        # Interrupts are ignored if the tests run in the background.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            signal.raise_signal(signal.SIGINT)
        finally:
            signal.signal(signal.SIGINT, before)

    with pytest.raises(KeyboardInterrupt):
        list(streaming.predict_recordings(network(), long_sources, rules={}, on_progress=interrupt))


def test_slow_consumer_gets_all_results(record, no_leaks):
    sources = [record(f"{number}.wav", noise(40_000 + number, number)) for number in range(6)]
    lengths = {}
    for result in streaming.predict_recordings(network(), sources, rules={}):
        time.sleep(0.15)  # longer than the threads wait for a place in the queue
        lengths[result.recording] = round(result.duration_s * small.RATE)
        del result
    assert lengths == {f"{number}.wav": 40_000 + number for number in range(6)}


def test_two_predictions_at_once_restore_the_threads_of_products(record, no_leaks):
    with threadpoolctl.threadpool_limits(2):
        before = [pool["num_threads"] for pool in threadpoolctl.threadpool_info()]
        first, second = (streaming.predict_recordings(network(), [record(f"{n}.wav", noise(900))], rules={}) for n in range(2))
        next(first), next(second)
        first.close(), second.close()
        assert [pool["num_threads"] for pool in threadpoolctl.threadpool_info()] == before


def test_many_predictions_can_be_kept(record):
    sources = [record(f"{number}.wav", noise(200)) for number in range(60)]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (count_open_files() + 40, hard))
    try:
        assert len(list(streaming.predict_recordings(network(), sources, rules={}))) == 60
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_decoding_does_not_run_ahead_of_the_network(record, monkeypatch):
    stream, decoded_s, decoded_at_first_batch = audio_reader.stream_mono, [], []

    def count_seconds(path, rate, on_warning):
        for block in stream(path, rate, on_warning):
            decoded_s.append(len(block) / rate)
            yield block

    def slow_network(batch):
        if not decoded_at_first_batch:
            time.sleep(0.5)  # enough to decode everything several times
            decoded_at_first_batch.append(sum(decoded_s))
        return frame_by_frame(batch)

    monkeypatch.setattr(audio_reader, "stream_mono", count_seconds)
    predict_all(network(slow_network), [record("a.wav", noise(300 * small.RATE))])
    # The current batch, the waiting windows and the block that is being cut.
    limit_s = 3 * streaming.batch_size() * 0.5 + 2 * audio_reader.BLOCK_S
    assert decoded_at_first_batch[0] <= limit_s < 100 and sum(decoded_s) == 300
