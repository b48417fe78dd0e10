"""Joined files of formats whose recordings a search through the file finds."""

import numpy as np
import pytest

RATE = 44_100


@pytest.mark.parametrize(("format", "subtype"), [("FLAC", "PCM_16"), ("MP3", "MPEG_LAYER_III")])
def test_recordings_of_other_rates_and_channels_follow_each_other(encode, read, format, subtype):
    content = encode(format, subtype, seconds=2)
    other = encode(format, subtype, seconds=1, rate=22_050, channels=2, seed=1)
    samples, warning = read(content + other + content)
    assert len(samples) == 5 * RATE and not warning
    np.testing.assert_array_equal(samples[: 2 * RATE], read(content)[0])
    np.testing.assert_array_equal(samples[2 * RATE : 3 * RATE], read(other)[0])
    np.testing.assert_array_equal(samples[3 * RATE :], samples[: 2 * RATE])
