"""Tests of matching the names of recordings in two lists."""

import pytest

from mfl_jax.data.match_recordings import match_recordings
from mfl_jax.errors import InputError


@pytest.mark.parametrize(
    "estimated, reference, expected",
    [
        (["a/x.wav"], ["a/x.wav", "b/x.wav"], {"a/x.wav": "a/x.wav"}),
        (["x.txt", "home/y"], ["street/x.wav", "audio/home/y.flac"], {"x.txt": "street/x.wav", "home/y": "audio/home/y.flac"}),
        (["audio\\street\\x.WAV"], ["street/x"], {"audio\\street\\x.WAV": "street/x"}),
        # The dots of this name do not start a suffix.
        (["Y0_350.000_360.000"], ["Y0_350.000_360.000.wav"], {"Y0_350.000_360.000": "Y0_350.000_360.000.wav"}),
        # An exact match takes precedence over a shared ending.
        (["x.wav", "a/x"], ["x.wav", "a/x.wav"], {"x.wav": "x.wav", "a/x": "a/x.wav"}),
        ([], ["x"], {}),
    ],
)
def test_names_of_the_same_recording_match(estimated, reference, expected):
    assert match_recordings(estimated, reference) == expected


@pytest.mark.parametrize(
    "estimated, message",
    [
        (["c/x.wav"], "'c/x.wav' is not in the reference"),
        (["x"], "'x' matches both 'a/x.wav' and 'b/x.wav' of the reference"),
        (["a/x", "a/x.flac"], "'a/x' and 'a/x.flac' both match 'a/x.wav'"),
        (["Y_1.000"], "'Y_1.000' is not in the reference"),
        ([""], "'' is not in the reference"),
    ],
)
def test_names_without_a_single_match_are_refused(estimated, message):
    with pytest.raises(InputError, match=message):
        match_recordings(estimated, ["a/x.wav", "b/x.wav", "Y_1"])


def match_names(names, *paths):
    return match_recordings(names, paths, require_all=False)


def test_name_matches_the_path_that_ends_with_it():
    paths = ("tut/audio/a.wav", "tut/audio/b.wav", "other/c.wav")
    assert match_names(["a.wav", "audio/b.wav", "c.wav"], *paths) == {
        "a.wav": paths[0], "audio/b.wav": paths[1], "c.wav": paths[2],
    }  # fmt: skip


def test_name_matches_the_path_that_it_ends_with():
    assert match_names(["home/me/audio/a.wav"], "audio/a.wav", "audio/b.wav") == {"home/me/audio/a.wav": "audio/a.wav"}
    assert match_names(["audio/a.wav"], "a.wav") == {"audio/a.wav": "a.wav"}


def test_suffix_of_a_file_is_ignored():
    assert match_names(["a.flac", "b.WAV", "c"], "x/a.wav", "x/b.wav", "x/c.wav") == {
        "a.flac": "x/a.wav",
        "b.WAV": "x/b.wav",
        "c": "x/c.wav",
    }
    assert match_names(["a.b.wav"], "x/a.b.flac", "x/a.wav") == {"a.b.wav": "x/a.b.flac"}


def test_names_match_by_whole_folders():
    """Names or folders that merely end with the same letters do not match."""
    assert match_names(["a.wav"], "x/aa.wav", "x/a/b.wav") == {}
    assert match_names(["audio/a.wav"], "myaudio/a.wav") == {}
    assert match_names(["one/a.wav"], "two/a.wav") == {}
    assert match_names(["A.wav"], "x/a.wav") == {}


def test_names_without_a_match_are_left_out():
    assert match_names(["a.wav", "z.wav", "stdin"], "x/a.wav") == {"a.wav": "x/a.wav"}
    assert match_names([], "x/a.wav") == {} and match_names(["a.wav"]) == {}


def test_name_that_matches_two_paths_is_refused():
    for name, paths in (
        ("a.wav", ("one/a.wav", "two/a.wav")),
        ("a.wav", ("one/a.wav", "two/a.flac")),
        ("audio/a.wav", ("one/audio/a.wav", "two/audio/a.wav", "two/a.wav")),
    ):
        with pytest.raises(InputError) as refusal:
            match_names([name], *paths)
        message = str(refusal.value)
        assert name in message and paths[0] in message and paths[1] in message and "folder" in message and "\n" not in message
    assert match_names(["one/a.wav", "two/a.wav"], "one/a.wav", "two/a.wav") == {
        "one/a.wav": "one/a.wav",
        "two/a.wav": "two/a.wav",
    }


def test_equal_path_wins_over_others():
    assert match_names(["a.wav"], "a.wav", "one/a.wav") == {"a.wav": "a.wav"}
    assert match_names(["one/a.wav"], "a.wav", "one/a.wav", "one/a.flac") == {"one/a.wav": "one/a.wav"}


@pytest.mark.parametrize("one, other", [("\u00fc", "u\u0308"), ("u\u0308", "\u00fc")])
def test_unicode_forms_of_one_name_match(one, other):
    expected = {f"x/b{one}.wav": f"x/b{other}.wav", f"c{one}": f"x/c{other}.flac"}
    assert match_recordings(expected, expected.values()) == expected
    with pytest.raises(InputError, match=r"'a.*\.wav' and 'a.*\.wav' both match"):
        match_recordings([f"a{one}.wav", f"a{other}.wav"], [f"a{one}.wav"])
