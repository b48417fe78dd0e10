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
