"""The base class of the builders: examples, folds, fingerprints, and errors in recordings and label lists."""

import dataclasses
import hashlib
import json
import shutil

import numpy as np
import pytest
import soundfile
import tensorflow_datasets as tfds

from mfl_jax.data import annotation, label_list, mel_spectrogram, prepare
from mfl_jax.errors import InputError
from mfl_jax.training.splits import split_development
from support.small import (
    AUDIO,
    CLIP_FRAMES,
    HEADER,
    MEL,
    RATE,
    prepare_in_shards,
    prepare_small,
    small_config,
    small_experiment,
    write_recordings,
)


def read_examples(dataset, split):
    return list(tfds.builder_from_directory(dataset.directory).as_data_source(split))


def test_examples_match_the_recordings_and_the_label_list(recordings, prepared):
    """Compares every clip with the spectrogram of the whole recording and its events."""
    listed = label_list.read_label_list(recordings / "meta" / "meta_development.txt")
    examples = {
        (example["recording"].decode(), round(example["clip_start_s"])): example
        for example in read_examples(prepared, "development")
    }
    assert len(examples) == 3 * len(listed)
    for recording in listed:
        waveform, _ = soundfile.read(recordings / recording.path, dtype="float32")
        log_mel = mel_spectrogram.compute_log_mel(waveform, MEL)
        active = annotation.events_to_frames(
            recording.events, prepared.events, len(log_mel), hop_samples=MEL.hop_samples, sample_rate_hz=RATE
        )
        for clip in range(3):
            example, start = examples[recording.path, clip], clip * CLIP_FRAMES
            valid = min(CLIP_FRAMES, len(log_mel) - start)
            assert example["valid_frames"] == valid and prepared.scenes[example["scene"]] == recording.scene
            np.testing.assert_allclose(example["log_mel"][:valid], log_mel[start:][:CLIP_FRAMES], rtol=1e-4, atol=1e-4)
            np.testing.assert_array_equal(example["events"][:valid], active[start:][:CLIP_FRAMES])
            np.testing.assert_allclose(example["log_mel"][valid:], np.log(1e-10), rtol=1e-5)
            assert not example["events"][valid:].any()


def test_folds_keep_recordings_together_and_balance_scenes(prepared):
    folds = {}
    for example in read_examples(prepared, "development"):
        assert folds.setdefault(example["recording"], example["fold"]) == example["fold"]
        assert 1 <= example["fold"] <= 4
    assert sorted(folds.values()) == [1, 1, 2, 2, 3, 3, 4, 4]
    assert {example["fold"] for example in read_examples(prepared, "evaluation")} == {0}


def test_clips_have_one_order_in_any_number_of_shards(recordings, prepared, tmp_path):
    builder = prepare_in_shards(tmp_path, recordings, 5)
    assert builder.info.splits["development"].shard_lengths == [5, 5, 4, 5, 5]
    for split in ("development", "evaluation"):
        for ours, theirs in zip(builder.as_data_source(split), read_examples(prepared, split), strict=True):
            assert ours.keys() == theirs.keys() and all(np.array_equal(ours[key], theirs[key]) for key in ours)


def test_the_fingerprint_covers_labels_and_every_sample(recordings, prepared, tmp_path):
    root = shutil.copytree(recordings, tmp_path / "recordings")
    assert prepare_small(tmp_path / "same", root).fingerprint == prepared.fingerprint
    waveform, rate = soundfile.read(root / "audio" / "evaluation_0.wav", dtype="int16")
    changed = waveform.copy()
    changed[1000] ^= 1
    soundfile.write(root / "audio" / "evaluation_0.wav", changed, rate)
    assert prepare_small(tmp_path / "sample", root).fingerprint != prepared.fingerprint
    soundfile.write(root / "audio" / "evaluation_0.wav", waveform, rate)
    with open(root / "meta" / "meta_evaluation.txt", "a") as file:
        file.write("audio/evaluation_0.wav\tcalm\t0\t1\thigh\n")
    assert prepare_small(tmp_path / "label", root).fingerprint != prepared.fingerprint


def write_few(tmp_path, **waveforms):
    """Writes two recordings per split; `waveforms` replaces some of them, by name."""
    root = write_recordings(tmp_path / "recordings", development=2, evaluation=2)
    for name, waveform in waveforms.items():
        soundfile.write(root / "audio" / f"{name}.wav", waveform, RATE)
    return root


def find_leftovers(tmp_path):
    return [path.name for path in (tmp_path / "data" / "annotated_audio" / "small").glob("[!.]*")]


def test_a_silent_recording_is_finite_and_reported(tmp_path, capsys):
    dataset = prepare_small(tmp_path / "data", write_few(tmp_path, development_0=np.zeros(RATE)))
    assert "audio/development_0.wav: it is silent: every sample is 0" in capsys.readouterr().err
    clips = dataset.read("development")
    assert np.isfinite(clips.take(np.arange(len(clips)))["log_mel"]).all()


def test_missing_recordings_are_named(tmp_path):
    root = write_few(tmp_path)
    (root / "audio" / "development_1.wav").unlink()
    (root / "audio" / "development_0.wav").unlink()
    (root / "audio" / "evaluation_0.wav").unlink()
    (root / "audio" / "evaluation_0.wav").mkdir()
    with pytest.raises(InputError) as caught:
        prepare_small(tmp_path / "data", root)
    assert str(caught.value) == (
        f"3 of 4 recordings are missing in {root}: audio/development_0.wav, audio/development_1.wav, "
        "audio/evaluation_0.wav (not a file)"
    )
    assert find_leftovers(tmp_path) == []


def test_all_unreadable_recordings_are_named_at_once_and_the_others_are_kept(tmp_path, decoded_files):
    root = write_recordings(tmp_path / "recordings", development=12, evaluation=1)
    broken = [f"development_{number}" for number in range(12)]
    for name in broken:
        (root / "audio" / f"{name}.wav").write_bytes(b"text instead of audio")
    with pytest.raises(InputError) as caught:
        prepare_small(tmp_path / "data", root)
    message = str(caught.value)
    assert message.startswith("12 recordings can't be read: ") and message.endswith("; and 2 more") and "\n" not in message
    assert message.count("not readable as audio") == 10 and all(f"{name}.wav: " in message for name in broken[:10])
    assert sorted(decoded_files) == sorted(f"{name}.wav" for name in [*broken, "evaluation_0"])
    decoded_files.clear()
    with pytest.raises(InputError):
        prepare_small(tmp_path / "data", root)
    assert "evaluation_0.wav" not in decoded_files


def test_classes_of_one_split_are_named(tmp_path, capsys):
    root = write_few(tmp_path)
    prepare_small(tmp_path / "both", root)
    assert "only in" not in capsys.readouterr().err
    for split, scene, event in (("development", "calm", "horn"), ("evaluation", "harbour", "gull")):
        rows = [f"audio/{split}_0.wav\t{scene}\t0\t1\t{label}\n" for label in (event, "low")]
        (root / "meta" / f"meta_{split}.txt").write_text(HEADER + "".join(rows))
    prepare_small(tmp_path / "data", root)
    lines = [line for line in capsys.readouterr().err.splitlines() if "only in" in line]
    assert lines == [
        "warning: annotated_audio/small: scenes only in development: calm; scenes only in evaluation: harbour; "
        "events only in development: horn; events only in evaluation: gull"
    ]


def test_recordings_of_both_splits_are_named(tmp_path, capsys):
    root = write_few(tmp_path)
    prepare_small(tmp_path / "different", root)
    assert "byte for byte" not in capsys.readouterr().err
    shutil.copy(root / "audio/development_0.wav", root / "audio/evaluation_1.wav")
    prepare_small(tmp_path / "data", root)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "byte for byte" in line]
    assert line.startswith("warning: annotated_audio/small: 1 recordings of development are also in evaluation")
    assert "audio/development_0.wav and audio/evaluation_1.wav" in line


def group_recordings(root, split, groups):
    """Adds a column of groups to a label list: recording 0 is in the first group, and so on."""
    file = root / "meta" / f"meta_{split}.txt"
    header, *rows = file.read_text().splitlines()
    numbers = [int(row.split(".wav")[0].rsplit("_", 1)[1]) for row in rows]
    rows = [f"{row}\t{groups[number]}\n" for row, number in zip(rows, numbers, strict=True)]
    file.write_text(f"{header}\tgroup\n{''.join(rows)}")


def read_folds(dataset):
    clips = dataset.read("development")
    folds = {(str(path), int(fold)) for path, fold in zip(clips.recording, clips.fold, strict=True)}
    assert len(folds) == len(set(clips.recording))
    return dict(sorted(folds))


def test_recordings_of_one_group_are_in_one_fold(recordings, prepared, tmp_path, capsys):
    root = shutil.copytree(recordings, tmp_path / "recordings")
    group_recordings(root, "development", ["a", "a", "b", "", "c", "c", "", "a"])
    group_recordings(root, "evaluation", ["x", "", "y", "b"])
    dataset = prepare_small(tmp_path / "data", root)
    # Three recordings of `a`, then two of `c`, then `b`, 3 and 6, each without a group: one fold each, and the last, the calm
    # recording 6, joins the busy recording 3.
    assert list(read_folds(dataset).values()) == [1, 1, 3, 4, 2, 2, 4, 1]
    assert [recording.group for recording in dataset.recordings("evaluation")] == ["x", "", "y", "b"]
    assert dataset.fingerprint != prepared.fingerprint
    expected = "1 groups have recordings in both development and evaluation: b; scores will be too high"
    assert f"warning: annotated_audio/small: {expected}\n" in capsys.readouterr().err


def test_an_empty_column_of_groups_changes_nothing(recordings, prepared, tmp_path, capsys):
    root = shutil.copytree(recordings, tmp_path / "recordings")
    group_recordings(root, "development", [""] * 8)
    dataset = prepare_small(tmp_path / "data", root)
    assert read_folds(dataset) == read_folds(prepared) and dataset.fingerprint == prepared.fingerprint
    assert "groups" not in capsys.readouterr().err
    assert "groups" not in (dataset.directory / "metadata.json").read_text()


def test_too_few_groups_for_the_folds_get_a_warning(tmp_path, capsys):
    root = write_few(tmp_path)
    prepare_small(tmp_path / "plain", root)
    assert "folds" not in capsys.readouterr().err  # folds may never be used
    group_recordings(root, "development", ["a", "b"])
    dataset = prepare_small(tmp_path / "data", root)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "folds" in line]
    assert line.startswith(
        "warning: annotated_audio/small: 4 folds need 4 groups, but development has 2; nothing is in fold 3, 4, "
    )
    with pytest.raises(InputError, match=r"fold3 is to be held out .* folds with recordings: 1, 2"):
        split_development(dataset.read("development"), "fold3")


def test_the_fingerprint_without_groups_is_that_of_earlier_versions(prepared):
    """The formula of the versions that had no groups."""
    sources, listed = prepared.sources(), {}
    for split in ("development", "evaluation"):
        rows: dict[str, int] = {}
        listed[split] = prepared.recordings(split)
        number = 1
        for recording in listed[split]:
            for _ in recording.events:
                number += 1
                rows.setdefault(recording.path, number)
        listed[split] = [
            [r.path, r.scene, [[e.onset_s, e.offset_s, e.label, rows[r.path] + index] for index, e in enumerate(r.events)]]
            for r in listed[split]
        ]
    content = {
        "events": list(prepared.events),
        "mel": dataclasses.asdict(MEL),
        "recordings": listed,
        "audio": {split: [sources["recordings"][path][1] for path, *_ in listed[split]] for split in listed},
    }
    text = json.dumps([list(prepared.scenes), CLIP_FRAMES, content])
    assert prepared.fingerprint == hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize("content", [b"", b"text instead of audio", None])
def test_an_unreadable_or_empty_recording_is_named_and_leaves_nothing(tmp_path, content):
    root = write_few(tmp_path, evaluation_1=np.zeros(0))
    if content is not None:
        (root / "audio" / "evaluation_1.wav").write_bytes(content)
    with pytest.raises(InputError, match=r"evaluation_1\.wav") as caught:
        prepare_small(tmp_path / "data", root)
    assert "\n" not in str(caught.value)
    assert find_leftovers(tmp_path) == []


def test_events_past_the_end_are_cut_off_and_reported(tmp_path, capsys):
    root = write_few(tmp_path)
    with open(root / "meta" / "meta_evaluation.txt", "a") as file:
        file.write("audio/evaluation_0.wav\tcalm\t2.5\t2.9\thigh\naudio/evaluation_0.wav\tcalm\t7.0\t8.0\tlow\n")
    dataset = prepare_small(tmp_path / "data", root)
    errors = capsys.readouterr().err
    cut_off, left_out = "audio/evaluation_0.wav, row 6, 'high'", "audio/evaluation_0.wav, row 7"
    assert f"1 events end after their recording and were cut off there; the first: {cut_off}" in errors
    assert f"1 events start after the end of their recording and were left out; the first: {left_out}" in errors
    last = next(
        example
        for example in read_examples(dataset, "evaluation")
        if example["recording"] == b"audio/evaluation_0.wav" and example["clip_start_s"] > 1.5
    )
    assert last["events"][25:30, list(dataset.events).index("high")].all() and not last["events"][30:].any()


def test_a_recording_in_both_splits_is_refused(tmp_path):
    root = write_few(tmp_path)
    with open(root / "meta" / "meta_evaluation.txt", "a") as file:
        file.write("audio/development_0.wav\tcalm\t0\t1\thigh\n")
    with pytest.raises(InputError, match=r"in both development and evaluation: audio/development_0.wav"):
        prepare_small(tmp_path / "data", root)


def write_lists(root, **rows):
    """Writes label lists with one row per split, given as scene and event."""
    for split, (scene, event) in rows.items():
        times = "0\t1" if event else "\t"
        (root / "meta" / f"meta_{split}.txt").write_text(HEADER + f"audio/{split}_0.wav\t{scene}\t{times}\t{event}\n")


def test_scenes_without_events(tmp_path):
    root = write_few(tmp_path)
    write_lists(root, development=("calm", ""), evaluation=("calm", ""))
    dataset = prepare_small(tmp_path / "data", root)
    assert (dataset.scenes, dataset.events) == (("calm",), ())
    clips = dataset.read("development").take(np.arange(3))
    assert clips["events"].shape == (3, CLIP_FRAMES, 0) and clips["scene"].tolist() == [0, 0, 0]


def test_events_without_scenes(tmp_path):
    root = write_few(tmp_path)
    write_lists(root, development=("", "low"), evaluation=("", "low"))
    dataset = prepare_small(tmp_path / "data", root)
    assert (dataset.scenes, dataset.events) == ((), ("low",))
    assert dataset.recordings("evaluation")[0].scene == ""
    clips = dataset.read("development")
    first = clips.take(np.flatnonzero(clips.clip_start_s == 0))
    assert first["events"].all() and first["scene"].tolist() == [-1]  # TFDS: no label


def test_label_lists_without_any_class_are_refused(tmp_path):
    root = write_few(tmp_path)
    write_lists(root, development=("", ""), evaluation=("", ""))
    with pytest.raises(InputError, match="contain neither scenes nor events"):
        prepare_small(tmp_path / "data", root)


def test_scenes_in_one_split_alone_are_refused(tmp_path):
    root = write_few(tmp_path)
    write_lists(root, development=("calm", "low"), evaluation=("", "low"))
    with pytest.raises(InputError, match=r"meta_evaluation\.txt: the scene_label is empty, but the other label list"):
        prepare_small(tmp_path / "data", root)


def test_events_in_one_split_alone_are_refused(tmp_path):
    root = write_few(tmp_path)
    for split, row in (("development", "0\t1\tlow"), ("evaluation", "\t\t?")):
        rows = "".join(f"audio/{split}_{n}.wav\tcalm\t{row}\n" for n in range(2))
        (root / "meta" / f"meta_{split}.txt").write_text(HEADER + rows)
    with pytest.raises(InputError, match=r"meta_evaluation\.txt: the event_label is '\?' in every row, but the other label list"):
        prepare_small(tmp_path / "data", root)


def test_examples_say_what_is_not_annotated(tmp_path, capsys):
    """Development 0 has no scene, development 1 no events; evaluation has both, one recording truly without events."""
    root = write_few(tmp_path)
    development = "audio/development_0.wav\t\t0\t9\tlow\naudio/development_1.wav\tcalm\t\t\t?\n"
    evaluation = "audio/evaluation_0.wav\tcalm\t0\t9\tlow\naudio/evaluation_1.wav\tcalm\t\t\t\n"
    (root / "meta" / "meta_development.txt").write_text(HEADER + development)
    (root / "meta" / "meta_evaluation.txt").write_text(HEADER + evaluation)
    dataset = prepare_small(tmp_path / "data", root)
    assert (dataset.scenes, dataset.events) == (("calm",), ("low",))
    clips = dataset.read("development")
    arrays, is_first = clips.take(np.arange(len(clips))), clips.recording == "audio/development_0.wav"
    np.testing.assert_array_equal(arrays["scene"], np.where(is_first, -1, 0))
    np.testing.assert_array_equal(arrays["scene_mask"], ~is_first)
    np.testing.assert_array_equal(arrays["event_mask"], is_first)
    assert not arrays["events"][~is_first].any() and arrays["events"][is_first].any((1, 2)).all()
    evaluated = dataset.read("evaluation")
    assert evaluated.scene_mask.all() and evaluated.event_mask.all()
    kept = dataset.recordings("development")
    assert [(r.scene, r.events_annotated, len(r.events)) for r in kept] == [("", True, 1), ("calm", False, 0)]
    warnings = capsys.readouterr().err
    for task, number in (("scenes", 0), ("events", 1)):
        count = f"{task} are not annotated in 1 of 2 recordings, which do not count for {task}"
        assert f"small, development: {count}: audio/development_{number}.wav\n" in warnings
    assert "small, evaluation: scenes" not in warnings and "small, evaluation: events" not in warnings


@pytest.mark.parametrize(
    ("labels", "tasks", "message"),
    [
        (("calm", ""), ("scene", "event"), "no events, but config.tasks has 'event'; --config=cnn_asc trains without events"),
        (("", "low"), ("scene", "event"), "no scenes, but config.tasks has 'scene'; --config=cnn_bigru_sed trains without"),
        (("", "low"), ("scene",), "no scenes"),
    ],
)
def test_a_task_without_classes_is_refused_before_and_after_preparing(tmp_path, labels, tasks, message, decoded_files):
    root = write_few(tmp_path)
    write_lists(root, development=labels, evaluation=labels)
    config = small_config(tmp_path, tasks=tasks, manual_dir=str(root))
    with pytest.raises(InputError, match=message):
        prepare.prepare_from_config(config)
    assert not decoded_files
    config.tasks = ("scene",) if labels[0] else ("event",)
    prepare.prepare_from_config(config)
    config.tasks = tasks
    with pytest.raises(InputError, match=message) as caught:
        prepare.prepare_from_config(config)
    assert "\n" not in str(caught.value)


def test_the_systems_of_an_experiment_need_classes_too(tmp_path):
    root = write_few(tmp_path)
    write_lists(root, development=("calm", ""), evaluation=("calm", ""))
    experiment = small_experiment(tmp_path, {"asc": {"tasks": ("scene",)}}, manual_dir=str(root))
    assert prepare.prepare_from_config(experiment).events == ()
    experiment.systems.update({"proposed": {}})
    with pytest.raises(InputError, match=r"no events, but config\.tasks has 'event'"):
        prepare.prepare_from_config(experiment)


def test_a_builder_without_its_recordings_is_refused(tmp_path):
    with pytest.raises(InputError, match="annotated_audio needs manual_dir"):
        prepare.prepare("annotated_audio/small", data_dir=tmp_path, **AUDIO)


def test_formats_rates_and_channels_mix(tmp_path):
    """FLAC, OGG, MP3 and WAV, mono and stereo, at other rates: all are resampled to the rate of the data set."""
    root = write_few(tmp_path)
    rows = []
    for name, rate, channels in (("a.flac", 44_100, 2), ("b.ogg", 48_000, 1), ("c.mp3", 22_050, 2), ("d.wav", 11_025, 5)):
        tone = 0.3 * np.sin(2 * np.pi * 1000 * np.arange(2 * rate) / rate)
        soundfile.write(root / "audio" / name, np.repeat(tone[:, None], channels, 1), rate)
        rows.append(f"audio/{name}\tcalm\t0\t2\thigh\n")
    (root / "meta" / "meta_evaluation.txt").write_text(HEADER + "".join(rows))
    examples = read_examples(prepare_small(tmp_path / "data", root), "evaluation")
    assert {example["recording"] for example in examples} == {b"audio/a.flac", b"audio/b.ogg", b"audio/c.mp3", b"audio/d.wav"}
    peak = int(mel_spectrogram.mel_filters(MEL)[:, 1000 * MEL.fft_samples // RATE].argmax())
    for example in examples:
        if example["valid_frames"] == CLIP_FRAMES:
            assert example["log_mel"][20].argmax() == peak, example["recording"]


def test_the_length_of_a_clip_must_be_a_multiple_of_the_hop(tmp_path):
    with pytest.raises(InputError, match=r"clip_s 1.01 is not a multiple of the hop"):
        prepare.prepare(
            "annotated_audio/x", data_dir=tmp_path / "data", manual_dir=write_few(tmp_path), **{**AUDIO, "clip_s": 1.01}
        )
