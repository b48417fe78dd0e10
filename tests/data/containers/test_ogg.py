"""Joined, truncated and damaged OGG files."""

import struct

import numpy as np
import pytest

from mfl_jax.errors import InputError

RATE = 44_100
CODECS = {"VORBIS": RATE, "OPUS": 48_000}
every_codec = pytest.mark.parametrize("codec", CODECS)
NO_END = "its last OGG page is missing, so its end may be missing"


@pytest.fixture(scope="module")
def files(encode):
    """The content of a file of each codec, several pages long."""
    return {codec: encode("OGG", codec, seconds=4, rate=rate) for codec, rate in CODECS.items()}


def list_pages(content: bytes) -> list[tuple[int, int, int]]:
    """Lists start, end and granule position of the pages (RFC 3533, section 6)."""
    pages, at = [], 0
    while at < len(content):
        count = content[at + 26]
        end = at + 27 + count + sum(content[at + 27 : at + 27 + count])
        pages.append((at, end, struct.unpack_from("<q", content, at + 6)[0]))
        at = end
    return pages


@every_codec
def test_joined_files_follow_each_other(files, codec, encode, read):
    """The last one has another rate and two channels."""
    other = encode("OGG", "VORBIS", seconds=1, rate=22_050, channels=2, seed=1)
    one, rest = read(files[codec])[0], read(other)[0]
    assert abs(len(rest) - RATE) <= 1
    samples, warning = read(files[codec] + files[codec] + other)
    np.testing.assert_array_equal(samples, np.concatenate([one, one, rest]))
    assert not warning


@every_codec
@pytest.mark.parametrize("damage", ["flipped bit", "missing", "shortened", "zeros", "without its name"])
def test_a_damaged_page_is_refused_with_its_time(files, codec, damage, read):
    """A decoder would drop the page and go on, so that all that follows came too early."""
    content = files[codec]
    pages = list_pages(content)
    assert len(pages) > 5
    start, end, _ = pages[4]
    head, page, rest = content[:start], bytearray(content[start:end]), content[end:]
    if damage == "flipped bit":
        page[len(page) // 2] ^= 1
    elif damage == "zeros":
        page[40:] = bytes(len(page) - 40)
    elif damage == "without its name":
        page[0] = 0
    else:
        del page[0 if damage == "missing" else 100 :]
    with pytest.raises(InputError, match=r"OGG pages are damaged or missing") as refused:
        read(head + page + rest)
    assert f"damaged at {pages[3][2] / CODECS[codec]:.3f} s" in str(refused.value)


def test_the_time_of_damage_counts_the_recordings_before(files, read):
    content = files["VORBIS"]
    pages = list_pages(content)
    start, end, _ = pages[4]
    with pytest.raises(InputError, match=rf"damaged at {4 + pages[3][2] / RATE:.3f} s"):
        read(content + content[:start] + content[end:])


@every_codec
def test_a_truncated_file_is_read_and_the_loss_is_named(files, codec, read):
    content = files[codec]
    start, end, _ = list_pages(content)[4]
    whole = read(content)[0]
    for cut in (start, (start + end) // 2):
        samples, warning = read(content[:cut])
        assert 0 < len(samples) < len(whole) and warning == NO_END
        np.testing.assert_array_equal(samples[:-2000], whole[: len(samples)][:-2000])  # the end is resampled for Opus
    samples, warning = read(content[:start] + content)
    assert warning == f"recording 1 of the 2 joined in it: {NO_END}"
    np.testing.assert_array_equal(samples[-len(whole) :], whole)


def test_bytes_between_pages_are_no_damage(files, read):
    content = files["VORBIS"]
    start = list_pages(content)[4][0]
    samples, warning = read(content[:start] + b"OggS but no page " * 10 + content[start:] + bytes(5000))
    np.testing.assert_array_equal(samples, read(content)[0])
    assert not warning
