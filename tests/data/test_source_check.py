"""A prepared data set and the recordings and label lists that it is compared with."""

import itertools
import json
import os
import shutil
import types

import numpy as np
import pytest
import soundfile

from mfl_jax.data import clip_cutting, prepare, source_check
from mfl_jax.data.annotation import Event, Recording
from mfl_jax.errors import InputError
from support.small import AUDIO, HEADER, RATE, prepare_small, small_config, write_recordings

HOW_TO_GO_ON = "delete that folder to prepare it again, or leave out config.manual_dir to use it as it is"


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """Four recordings and the data set prepared from them; for reading only."""
    folder = tmp_path_factory.mktemp("original")
    write_recordings(folder / "recordings", development=2, evaluation=2)
    dataset = prepare_small(folder / "data", folder / "recordings")
    return folder, dataset


@pytest.fixture
def copy(original, tmp_path):
    """A copy of `original`, with equal modification times."""
    return shutil.copytree(original[0], tmp_path / "copy")


@pytest.fixture
def hashed(monkeypatch):
    """The names of the files whose sums are computed."""
    names: list[str] = []
    hash_file = source_check.hash_file

    def record(file):
        names.append(file.name)
        return hash_file(file)

    monkeypatch.setattr(source_check, "hash_file", record)
    return names


def open_copy(copy):
    return prepare_small(copy / "data", copy / "recordings")


def refuse(copy) -> str:
    """Returns the refusal of data that has changed."""
    with pytest.raises(InputError) as caught:
        open_copy(copy)
    message = str(caught.value)
    assert "\n" not in message and message.endswith(HOW_TO_GO_ON) and str(copy / "data") in message
    assert prepare_small(copy / "data", None) is not None
    return message


def replace(file, text, by):
    content = file.read_text()
    assert text in content
    file.write_text(content.replace(text, by, 1))


def test_unchanged_sources_are_accepted_and_no_recording_is_read_again(original, copy, hashed):
    assert open_copy(copy).fingerprint == original[1].fingerprint
    assert sorted(hashed) == ["meta_development.txt", "meta_evaluation.txt"]


def test_a_moved_folder_is_read_once_and_accepted(original, copy, hashed):
    moved = copy / "elsewhere"
    (copy / "recordings").rename(moved)
    for file in moved.rglob("*.wav"):
        os.utime(file, ns=(0, 1_000_000_007))
    for wavs in (4, 0):
        hashed.clear()
        assert prepare_small(copy / "data", moved).fingerprint == original[1].fingerprint
        assert len([name for name in hashed if name.endswith(".wav")]) == wavs


def test_half_a_file_of_times_is_ignored(original, copy, hashed):
    stamps = copy / "data/annotated_audio/small" / source_check.STAMPS
    content = stamps.read_text()
    stamps.write_text(content[: len(content) // 2])
    assert open_copy(copy).fingerprint == original[1].fingerprint
    assert len(hashed) == 2 + 4 and json.loads(stamps.read_text()) == json.loads(content)


def test_read_only_data_is_accepted(original, copy, monkeypatch):
    os.utime(copy / "recordings/audio/evaluation_0.wav", ns=(0, 7))

    def refuse_to_write(*_):
        raise PermissionError

    monkeypatch.setattr(source_check, "write_stamps", refuse_to_write)
    assert open_copy(copy).fingerprint == original[1].fingerprint


def test_preparing_says_what_it_reused_and_why(original, copy):
    lines: list[str] = []
    for manual_dir in (copy / "recordings", None):
        settings = {"data_dir": copy / "data", "manual_dir": manual_dir, **AUDIO}
        prepare.prepare("annotated_audio/small", report=lines.append, **settings)
    directory = copy / "data/annotated_audio/small/1.0.0"
    assert lines == [
        f"{directory}: reused, because the label lists and all 4 recordings of {copy / 'recordings'} are unchanged",
        f"{directory}: reused, as it is: without config.manual_dir there is nothing to compare it with",
    ]


def test_other_spelling_and_order_of_a_label_list_is_accepted(original, copy):
    file = copy / "recordings/meta/meta_development.txt"
    header, *rows = file.read_text().splitlines()
    file.write_text("\r\n\r\n".join([header, *reversed(rows)]))
    assert open_copy(copy).fingerprint == original[1].fingerprint


def test_a_corrected_label_is_named_with_its_row(copy):
    file = copy / "recordings/meta/meta_evaluation.txt"
    replace(file, "\tlow\n", "\thigh\n")
    onset, offset = (float(time) for time in file.read_text().splitlines()[1].split("\t")[2:4])
    event = f"audio/evaluation_0.wav did not have 'high' from {onset} to {offset} s"
    assert f"{file}, row 2: {event}; " in refuse(copy)


def add_groups(file, *groups):
    """Adds a column of groups; those of rows without one are empty."""
    header, *rows = file.read_text().splitlines()
    rows = [f"{row}\t{group}" for row, group in itertools.zip_longest(rows, groups, fillvalue="")]
    file.write_text("\n".join([f"{header}\tgroup", *rows]) + "\n")


def test_groups_that_are_added_or_changed_are_named(copy):
    file = copy / "recordings/meta/meta_development.txt"
    add_groups(file)
    open_copy(copy)  # no group, no difference
    replace(file, "high\t\n", "high\tyard\n")
    replace(file, "low\t\n", "low\tyard\n")
    assert f"{file}, where the group of audio/development_0.wav was '' and is 'yard'; " in refuse(copy)
    shutil.rmtree(copy / "data/annotated_audio/small/1.0.0")
    assert [recording.group for recording in open_copy(copy).recordings("development")] == ["yard", ""]
    file.write_text(file.read_text().replace("yard", "hall"))
    assert "where the group of audio/development_0.wav was 'yard' and is 'hall'; " in refuse(copy)


def test_events_that_are_no_longer_annotated_are_named(copy):
    file = copy / "recordings/meta/meta_evaluation.txt"
    rows = [row for row in file.read_text().splitlines() if "evaluation_0.wav" not in row]
    file.write_text("\n".join([*rows, "audio/evaluation_0.wav\tcalm\t\t\t?"]) + "\n")
    assert f"{file}, where the events of audio/evaluation_0.wav are no longer annotated; " in refuse(copy)


def test_recordings_that_are_replaced_are_named(copy):
    """Same size, other samples; and another size."""
    audio = copy / "recordings/audio"
    waveform, _ = soundfile.read(audio / "development_1.wav")
    soundfile.write(audio / "development_1.wav", np.roll(waveform, 1), RATE)
    os.utime(audio / "development_1.wav", ns=(0, 7))  # a clock may be too coarse for a test
    assert f"1 of 4 recordings differ: {audio / 'development_1.wav'} (with other content)" in refuse(copy)
    soundfile.write(audio / "evaluation_0.wav", waveform[:-1], RATE)
    assert f"1 of 4 recordings differ: {audio / 'evaluation_0.wav'} (of another size)" in refuse(copy)


def test_recordings_that_are_gone_are_named(copy):
    for number in (0, 1):
        (copy / f"recordings/audio/evaluation_{number}.wav").unlink()
    message = refuse(copy)
    assert "2 of 4 recordings differ: " in message and message.count("No such file or directory") == 2


def test_another_folder_is_refused(copy, tmp_path):
    other = write_recordings(tmp_path / "other", development=3, evaluation=2)
    with pytest.raises(InputError, match=r"meta_development.txt, which now lists audio/development_2.wav"):
        prepare_small(copy / "data", other)


def test_a_folder_or_list_that_is_missing_is_refused(copy):
    with pytest.raises(InputError, match=r"config.manual_dir is .*/nothing, which is not a folder"):
        prepare_small(copy / "data", copy / "nothing")
    (copy / "recordings/meta/meta_evaluation.txt").unlink()
    with pytest.raises(InputError, match=r"meta_evaluation.txt: no such label list"):
        open_copy(copy)


def test_configs_are_compared_too(copy):
    replace(copy / "recordings/meta/meta_development.txt", "\tcalm\t", "\tbusy\t")
    config = small_config(copy, manual_dir=str(copy / "recordings"))
    with pytest.raises(InputError, match=r"audio/development_0\.wav has the scene"):  # the list contradicts itself
        prepare.prepare_from_config(config)
    config.manual_dir = ""
    prepare.prepare_from_config(config)


def test_a_host_that_waited_for_another_compares_its_own_recordings(copy, monkeypatch):
    """Both hosts share `data_dir`; the second finds the data set prepared when it gets the lock."""
    replace(copy / "recordings/meta/meta_evaluation.txt", "\tlow\n", "\thigh\n")
    opened, answers = prepare._open_prepared, iter([None])
    monkeypatch.setattr(prepare, "_open_prepared", lambda *arguments: next(answers, opened(*arguments)))
    with pytest.raises(InputError, match=r"meta_evaluation\.txt, row 2: "):
        open_copy(copy)


def test_a_list_that_changes_while_the_data_set_is_prepared_differs(original, tmp_path, monkeypatch):
    root = shutil.copytree(original[0] / "recordings", tmp_path / "recordings")
    check_recordings = clip_cutting.check_recordings

    def change_list(*arguments):
        replace(root / "meta/meta_evaluation.txt", "\tlow\n", "\thigh\n")
        check_recordings(*arguments)

    monkeypatch.setattr(clip_cutting, "check_recordings", change_list)
    prepare_small(tmp_path / "data", root)
    with pytest.raises(InputError, match=r"meta_evaluation\.txt, row 2: "):
        prepare_small(tmp_path / "data", root)


def test_data_of_an_older_version_is_used_with_a_warning(original, copy, capsys):
    file = copy / "data/annotated_audio/small/1.0.0/metadata.json"
    metadata = json.loads(file.read_text())
    del metadata["sources"]
    file.write_text(json.dumps(metadata))
    (copy / "data/annotated_audio/small/.sources.json").unlink()
    capsys.readouterr()
    assert open_copy(copy).fingerprint == original[1].fingerprint
    errors = capsys.readouterr().err
    assert errors.count("warning: ") == 1 and "prepared by an older version without sums" in errors


def test_prepared_again_after_a_difference(original, copy):
    replace(copy / "recordings/meta/meta_evaluation.txt", "\tlow\n", "\thigh\n")
    refuse(copy)
    shutil.rmtree(copy / "data/annotated_audio/small/1.0.0")
    assert open_copy(copy).fingerprint != original[1].fingerprint
    assert open_copy(copy).events == ("high", "low")


def test_a_folder_is_not_used_for_synthesised_recordings(original, copy, capsys):
    file = copy / "data/annotated_audio/small/1.0.0/metadata.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "sources": {}}))  # as the builder of soundscapes leaves it
    capsys.readouterr()
    prepare_small(copy / "data", "anywhere")
    assert "config.manual_dir is not used" in capsys.readouterr().err


def test_differences_of_label_lists():
    car, bus = Event(0.5, 1.2, "car", 2), Event(0.5, 1.2, "bus", 3)
    before = [Recording("a.wav", "street", (car, car)), Recording("b.wav", "home", ())]

    def difference(*now):
        return source_check.find_difference(before, now)

    assert difference(Recording("b.wav", "home", ()), Recording("a.wav", "street", (car, Event(0.5, 1.2, "car", 9)))) == ""
    assert difference(before[0]) == "which no longer lists b.wav"
    assert difference(*before, Recording("c.wav", "home", ())) == "which now lists c.wav"
    assert difference(before[0], Recording("b.wav", "park", ())) == "where the scene of b.wav was 'home' and is 'park'"
    grouped = Recording("b.wav", "home", (), "kitchen")
    assert difference(before[0], grouped) == "where the group of b.wav was '' and is 'kitchen'"
    assert difference(Recording("a.wav", "street", (car,)), before[1]) == "where a.wav no longer has 'car' from 0.5 to 1.2 s"
    row = "row 3: a.wav did not have 'bus' from 0.5 to 1.2 s"
    assert difference(Recording("a.wav", "street", (car, car, bus)), before[1]) == row


def test_folds_of_the_published_lists_are_compared(tmp_path):
    """Builders with more lists than one per split: a list that changes, appears or goes is a difference."""
    for name in ("development", "fold1"):
        (tmp_path / f"{name}.txt").write_text(HEADER)
    lists = {name: tmp_path / f"{name}.txt" for name in ("fold1", "fold2")}
    described = source_check.hash_lists(tmp_path, lists)
    assert described["fold2"] == ["fold2.txt", None]

    prepared_set = types.SimpleNamespace(clips={"development": 1, "evaluation": 1})
    assert source_check._compare_lists(prepared_set, tmp_path, described) == ""
    (tmp_path / "fold2.txt").write_text(HEADER)
    assert source_check._compare_lists(prepared_set, tmp_path, described) == f"{tmp_path / 'fold2.txt'} is new"
    (tmp_path / "fold1.txt").write_text(HEADER + "\n")
    assert source_check._compare_lists(prepared_set, tmp_path, described) == f"{tmp_path / 'fold1.txt'} has changed"
    (tmp_path / "fold1.txt").unlink()
    assert source_check._compare_lists(prepared_set, tmp_path, described) == f"{tmp_path / 'fold1.txt'} is missing"
