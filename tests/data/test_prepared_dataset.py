"""From recordings to a prepared data set and on to batches, and what is said of recordings that are odd or wrong."""

import threading
import time

import numpy as np
import pytest
import soundfile

from mfl_jax.data import (
    annotation,
    audio_reader,
    batching,
    clip_cutting,
    feature_statistics,
    label_list,
    mel_spectrogram,
    prepare,
    prepared_dataset,
    spectrogram_cache,
)
from mfl_jax.errors import InputError
from support.small import AUDIO, HEADER, RATE, clips_of, small_dataset, write_recordings

pytestmark = pytest.mark.lightly_optimised

MEL = mel_spectrogram.MelConfig(**{key: value for key, value in AUDIO.items() if key != "clip_s"})


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    tmp = tmp_path_factory.mktemp("data")
    return tmp, small_dataset(tmp)


def examples(dataset, split):
    import tensorflow_datasets as tfds

    return list(tfds.builder_from_directory(dataset.directory).as_data_source(split))


def test_examples_are_those_of_the_recordings(prepared):
    """Every clip against a spectrogram of the whole recording and the label list, cut by hand."""
    tmp, dataset = prepared
    listed = label_list.read_label_list(tmp / "recordings" / "meta" / "meta_development.txt")
    found = {
        (example["recording"].decode(), round(example["clip_start_s"])): example for example in examples(dataset, "development")
    }
    assert len(found) == 3 * len(listed)
    for recording in listed:
        wave, _ = soundfile.read(tmp / "recordings" / recording.path, dtype="float32")
        whole = mel_spectrogram.compute_log_mel(wave, MEL)
        active = annotation.events_to_frames(recording.events, dataset.events, len(whole), hop_samples=160, sample_rate_hz=RATE)
        for start in range(3):
            example = found[recording.path, start]
            valid = min(50, len(whole) - 50 * start)
            assert example["valid_frames"] == valid and dataset.scenes[example["scene"]] == recording.scene
            np.testing.assert_allclose(example["log_mel"][:valid], whole[50 * start :][:50], rtol=1e-4, atol=1e-4)
            np.testing.assert_array_equal(example["events"][:valid], active[50 * start :][:50])
            np.testing.assert_allclose(example["log_mel"][valid:], np.log(1e-10), rtol=1e-5)
            assert not example["events"][valid:].any()


def test_folds_keep_recordings_together_and_scenes_apart(prepared):
    fold = {}
    for example in examples(prepared[1], "development"):
        assert fold.setdefault(example["recording"], example["fold"]) == example["fold"]
        assert 1 <= example["fold"] <= 4
    assert sorted(fold.values()) == [1, 1, 2, 2, 3, 3, 4, 4]
    assert {example["fold"] for example in examples(prepared[1], "evaluation")} == {0}


def test_several_threads_and_one_give_the_same(prepared, tmp_path):
    tmp, dataset = prepared
    root = tmp / "recordings"
    listed = label_list.read_label_list(root / "meta" / "meta_evaluation.txt")
    options = {"events": dataset.events, "mel": MEL, "clip_frames": 50, "notes": clip_cutting.Anomalies()}
    one, two = (clips_of(listed, root, tmp_path / str(jobs), jobs=jobs, **options) for jobs in (1, 2))
    assert one.keys() == two.keys() and len(one) == 12
    for key, example in one.items():
        np.testing.assert_allclose(two[key]["log_mel"], example["log_mel"], rtol=1e-5, atol=1e-5)


def test_a_recording_whose_end_nobody_waits_for_is_not_computed_to_its_end(tmp_path):
    soundfile.write(tmp_path / "long.wav", np.zeros(int(2.5 * audio_reader.BLOCK_S * RATE)), RATE)
    stop = threading.Event()
    whole, silent = spectrogram_cache.write_log_mel(str(tmp_path / "long.wav"), MEL, str(tmp_path / "out"), stop)
    assert whole == silent == 2.5 * audio_reader.BLOCK_S * 50
    stop.set()
    first, _ = spectrogram_cache.write_log_mel(str(tmp_path / "long.wav"), MEL, str(tmp_path / "out"), stop)
    assert 0 < first <= audio_reader.BLOCK_S * 50


def test_an_error_in_one_recording_ends_the_threads_of_the_others(tmp_path):
    soundfile.write(tmp_path / "good.wav", np.zeros(RATE), RATE)
    (tmp_path / "bad.wav").write_bytes(b"RIFF")
    recordings = [annotation.Recording(path=f"{name}.wav", scene="any", events=()) for name in ("good", "bad", "good")]
    options = {"events": (), "mel": MEL, "clip_frames": 50, "notes": clip_cutting.Anomalies()}
    before = threading.active_count()
    with pytest.raises(InputError, match=r"bad\.wav: not readable"):
        clips_of(recordings, tmp_path, tmp_path / "kept", jobs=2, **options)
    limit = time.monotonic() + 10  # that of the progress bar ends a moment later
    while threading.active_count() > before and time.monotonic() < limit:
        time.sleep(0.01)
    assert threading.active_count() == before


def test_batches_hold_every_clip_once_and_mask_the_rest(prepared):
    opened = prepared[1].read("development")
    order = batching.shuffle_indices(np.arange(len(opened)), seed=3, epoch=1)
    assert sorted(order) == list(range(24))
    made = list(batching.read_batches(opened, order, 10, rows=slice(0, 12)))
    assert [batch["clip_mask"].sum() for batch in made] == [10, 10, 4]
    assert all(batch["log_mel"].shape == (12, 50, 32) for batch in made)
    joined = np.concatenate([batch["log_mel"][batch["clip_mask"]] for batch in made])
    np.testing.assert_array_equal(joined, opened.take(order)["log_mel"])
    assert not any(batch["log_mel"][~batch["clip_mask"]].any() for batch in made)


def test_the_order_depends_on_seed_and_epoch_alone():
    numbers = np.arange(100)
    orders = [
        batching.shuffle_indices(numbers, seed=seed, epoch=epoch).tolist() for seed, epoch in ((0, 0), (0, 1), (1, 0), (0, 0))
    ]
    assert orders[0] == orders[3] and len({tuple(order) for order in orders}) == 3


def test_a_split_larger_than_memory_is_read_from_the_disk(prepared):
    import tensorflow_datasets as tfds

    source = tfds.builder_from_directory(prepared[1].directory).as_data_source("development")
    held, read = prepared_dataset.Clips(source), prepared_dataset.Clips(source, in_memory_bytes=1000)
    assert read._arrays is None and held._arrays is not None
    np.testing.assert_array_equal(read.fold, held.fold)
    for key, value in held.take(np.array([5, 0, 23])).items():
        np.testing.assert_array_equal(read.take(np.array([5, 0, 23]))[key], value)


def test_an_error_while_reading_ahead_reaches_the_reader(prepared):
    opened = prepared[1].read("development")
    with pytest.raises(IndexError):
        list(batching.read_batches(opened, np.array([0, 99]), 2))


def test_feature_statistics_are_those_of_the_valid_frames(prepared):
    opened = prepared[1].read("development")
    numbers = np.arange(0, 24, 2)
    taken = opened.take(numbers)
    frames = np.concatenate([clip[:valid] for clip, valid in zip(taken["log_mel"], taken["valid_frames"], strict=True)])
    got = feature_statistics.compute_feature_statistics(opened, numbers)
    np.testing.assert_allclose(got["mean"], frames.mean(0, dtype=np.float64), rtol=1e-5)
    np.testing.assert_allclose(got["std"], frames.std(0, dtype=np.float64), rtol=1e-4)


def spoiled(tmp_path, **changes):
    """A folder of recordings with one of them replaced: {name: samples}."""
    root = write_recordings(tmp_path / "recordings", development=2, evaluation=2)
    for name, samples in changes.items():
        soundfile.write(root / "audio" / f"{name}.wav", samples, RATE)
    return root


def small(tmp_path, root):
    return prepare.prepare("annotated_audio/small", data_dir=tmp_path / "data", manual_dir=root, **AUDIO)


def leftovers(tmp_path):
    return [path.name for path in (tmp_path / "data" / "annotated_audio" / "small").glob("[!.]*")]


def test_silence_is_no_nan_and_is_named(tmp_path, capsys):
    dataset = small(tmp_path, spoiled(tmp_path, development_0=np.zeros(RATE)))
    assert "1 recordings are silent throughout; the first: audio/development_0.wav" in capsys.readouterr().err
    opened = dataset.read("development")
    assert np.isfinite(opened.take(np.arange(len(opened)))["log_mel"]).all()


def test_a_data_set_that_is_silent_throughout_has_finite_statistics(tmp_path):
    dataset = small(tmp_path, spoiled(tmp_path, development_0=np.zeros(RATE), development_1=np.zeros(RATE)))
    opened = dataset.read("development")
    stats = feature_statistics.compute_feature_statistics(opened, np.arange(len(opened)))
    assert np.isfinite(stats["mean"]).all() and (stats["std"] == 1).all()


def test_missing_recordings_are_counted_and_the_first_is_named(tmp_path):
    root = spoiled(tmp_path)
    (root / "audio" / "development_1.wav").unlink()
    (root / "audio" / "development_0.wav").unlink()
    with pytest.raises(InputError, match=r"2 of 2 recordings are missing below .*; the first: audio/development_0.wav"):
        small(tmp_path, root)
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("content", [b"", b"no audio at all, but some text", None])
def test_an_unreadable_or_empty_recording_is_named_and_leaves_nothing(tmp_path, content):
    root = spoiled(tmp_path, evaluation_1=np.zeros(0))
    if content is not None:
        (root / "audio" / "evaluation_1.wav").write_bytes(content)
    with pytest.raises(InputError, match=r"evaluation_1\.wav") as caught:
        small(tmp_path, root)
    assert "\n" not in str(caught.value)
    assert leftovers(tmp_path) == []


def test_events_past_the_end_are_cut_and_named(tmp_path, capsys):
    root = spoiled(tmp_path)
    with open(root / "meta" / "meta_evaluation.txt", "a") as file:
        file.write("audio/evaluation_0.wav\tcalm\t2.5\t2.9\thigh\naudio/evaluation_0.wav\tcalm\t7.0\t8.0\tlow\n")
    dataset = small(tmp_path, root)
    said = capsys.readouterr().err
    assert "1 events end after their recording does and were cut there; the first: audio/evaluation_0.wav, row 6, 'high'" in said
    assert "1 events start after their recording has ended and were left out; the first: audio/evaluation_0.wav, row 7" in said
    last = next(
        e for e in examples(dataset, "evaluation") if e["recording"] == b"audio/evaluation_0.wav" and e["clip_start_s"] > 1.5
    )
    assert last["events"][25:30, list(dataset.events).index("high")].all() and not last["events"][30:].any()


def test_a_recording_in_both_splits_is_refused(tmp_path):
    root = spoiled(tmp_path)
    with open(root / "meta" / "meta_evaluation.txt", "a") as file:
        file.write("audio/development_0.wav\tcalm\t0\t1\thigh\n")
    with pytest.raises(InputError, match=r"both in development and in evaluation; the first: audio/development_0.wav"):
        small(tmp_path, root)


def test_label_lists_without_any_event_are_refused(tmp_path):
    root = spoiled(tmp_path)
    for split in ("development", "evaluation"):
        (root / "meta" / f"meta_{split}.txt").write_text(HEADER + f"audio/{split}_0.wav\tcalm\t\t\t\n")
    with pytest.raises(InputError, match="no event at all"):
        small(tmp_path, root)


def test_formats_rates_and_channels_mix(tmp_path):
    """FLAC, OGG and MP3 beside WAV, stereo beside mono, other rates: all brought to the rate of the data set."""
    root = spoiled(tmp_path)
    rows = []
    for name, rate, channels in (("a.flac", 44_100, 2), ("b.ogg", 48_000, 1), ("c.mp3", 22_050, 2), ("d.wav", 11_025, 5)):
        tone = 0.3 * np.sin(2 * np.pi * 1000 * np.arange(2 * rate) / rate)
        soundfile.write(root / "audio" / name, np.repeat(tone[:, None], channels, 1), rate)
        rows.append(f"audio/{name}\tcalm\t0\t2\thigh\n")
    (root / "meta" / "meta_evaluation.txt").write_text(HEADER + "".join(rows))
    dataset = small(tmp_path, root)
    got = examples(dataset, "evaluation")
    assert {example["recording"] for example in got} == {b"audio/a.flac", b"audio/b.ogg", b"audio/c.mp3", b"audio/d.wav"}
    peak = int(mel_spectrogram.mel_filters(MEL)[:, 1000 * 512 // RATE].argmax())
    for example in got:
        if example["valid_frames"] == 50:
            assert example["log_mel"][20].argmax() == peak, example["recording"]


def test_a_clip_is_a_whole_number_of_hops(tmp_path):
    root = spoiled(tmp_path)
    with pytest.raises(InputError, match=r"clip_s 1.01 is no whole number of hops"):
        prepare.prepare("annotated_audio/x", data_dir=tmp_path / "data", manual_dir=root, **{**AUDIO, "clip_s": 1.01})


def test_the_fingerprint_tells_data_apart(prepared, tmp_path):
    root = write_recordings(tmp_path / "recordings")
    same = small(tmp_path, root)
    assert same.fingerprint == prepared[1].fingerprint
    with open(root / "meta" / "meta_evaluation.txt", "a") as file:
        file.write("audio/evaluation_0.wav\tcalm\t0\t1\thigh\n")
    other = prepare.prepare("annotated_audio/other", data_dir=tmp_path / "data", manual_dir=root, **AUDIO)
    assert other.fingerprint != same.fingerprint


def test_a_preparation_at_work_beside_it_is_no_version(tmp_path):
    """The folder that a preparation renames at its end, and that a killed one leaves."""
    for name in ("1.0.0", "10.0.0", "9.9.9", "incomplete.ABC_11.0.0"):
        (tmp_path / "annotated_audio/mine" / name).mkdir(parents=True)
        (tmp_path / "annotated_audio/mine" / name / "dataset_info.json").touch()
    assert prepared_dataset.find_directory("annotated_audio/mine", tmp_path).name == "10.0.0"
