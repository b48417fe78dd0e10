"""Texts that look the same."""

import pytest

from mfl_jax.data import spelling
from mfl_jax.errors import InputError
from support import small

COMPOSED, DECOMPOSED = "h\u00fcndin", "hu\u0308ndin"


@pytest.mark.parametrize(
    "text", [" big dog", "big\u00a0dog", "big  dog ", "big\tdog", "\u3000big \u2009dog", "big\u200b dog\ufeff", "b\u00adig dog"]
)
def test_spaces_and_invisible_characters_make_no_other_label(text):
    assert spelling.normalise_label(text) == "big dog"


def test_letters_have_one_form():
    assert COMPOSED != DECOMPOSED
    assert spelling.normalise_label(DECOMPOSED) == spelling.normalise_name(DECOMPOSED) == COMPOSED


@pytest.mark.parametrize("text", ["Dog", "dog!", "do g", "\ud55c\uad6d\uc5b4", "\u2460"])
def test_what_looks_different_stays_different(text):
    assert spelling.normalise_label(text) == text


def test_a_label_is_found_in_any_form_and_first_in_its_own():
    assert spelling.find_label(COMPOSED, ["car", DECOMPOSED]) == DECOMPOSED
    assert spelling.find_label("big dog", ["big\u00a0dog", "big dog"]) == "big dog"
    assert spelling.find_label("big\u00a0dog", ["big dog", "big\u00a0dog"]) == "big\u00a0dog"
    assert spelling.find_label("big\u2009dog", ["big dog", "big\u00a0dog"]) == "big dog"
    assert spelling.find_label("cat", [COMPOSED]) is None


@pytest.mark.parametrize("written, on_disk", [(COMPOSED, DECOMPOSED), (DECOMPOSED, COMPOSED)])
def test_a_file_is_found_under_its_own_name(tmp_path, written, on_disk):
    (tmp_path / on_disk).mkdir()
    (tmp_path / on_disk / f"{on_disk}.wav").touch()
    assert spelling.find_file(tmp_path, f"{written}/{written}.wav") == tmp_path / on_disk / f"{on_disk}.wav"
    assert spelling.find_file(tmp_path, f"{on_disk}/{on_disk}.wav") == tmp_path / on_disk / f"{on_disk}.wav"
    assert spelling.find_file(tmp_path, f"{tmp_path}/{written}/{written}.wav") == tmp_path / on_disk / f"{on_disk}.wav"


def test_a_missing_file_keeps_its_path(tmp_path):
    for path in ("a.wav", f"{COMPOSED}/x.wav", COMPOSED + "y" * 300, "\u00fc\0"):
        assert spelling.find_file(tmp_path, path) == tmp_path / path


def test_files_that_look_the_same_are_refused_unless_one_is_meant(tmp_path):
    names = ["\u1ec7.wav", "e\u0323\u0302.wav", "e\u0302\u0323.wav"]  # all of them look like the first one
    for name in names[1:]:
        (tmp_path / name).touch()
    assert spelling.find_file(tmp_path, names[1]) == tmp_path / names[1]
    with pytest.raises(InputError, match=r"2 names look like .* differ only in Unicode form; rename one"):
        spelling.find_file(tmp_path, names[0])


def test_recordings_and_labels_are_prepared_whatever_their_form(tmp_path):
    """The lists name a file in composed letters, the disk in decomposed ones; each list spells the labels in its own way."""
    root = small.write_recordings(tmp_path / "recordings", development=4, evaluation=2, seconds=1.0)
    for split, low, high in (("development", COMPOSED, "big dog"), ("evaluation", DECOMPOSED, "big\u00a0dog")):
        file = root / "meta" / f"meta_{split}.txt"
        text = file.read_text().replace("low\n", f"{low}\n").replace("high\n", f"{high}\n")
        file.write_text(text.replace(f"{split}_0.wav", f"{split}_{COMPOSED}.wav"), encoding="utf-8")
        (root / "audio" / f"{split}_0.wav").rename(root / "audio" / f"{split}_{DECOMPOSED}.wav")
    dataset = small.prepare_small(tmp_path / "data", root)
    assert dataset.events == ("big dog", COMPOSED) and dataset.clips == {"development": 4, "evaluation": 2}
    clips = dataset.read("evaluation")
    assert set(clips.recording) == {f"audio/evaluation_{DECOMPOSED}.wav", "audio/evaluation_1.wav"}
    assert clips.take(range(2))["events"].any((0, 1)).all()
