"""Joined, truncated and damaged FLAC files, and wrong numbers of samples in their headers."""

import numpy as np
import pytest

from mfl_jax.errors import InputError

RATE = 44_100
BLOCK = 4096
"""Samples of a frame as libsndfile writes them."""


@pytest.fixture(scope="module")
def content(encode):
    return encode("FLAC", "PCM_16", seconds=2)


def set_total(content: bytes, samples: int) -> bytes:
    """Changes the number of samples: the last 36 of the 40 bits from byte 21 on (RFC 9639, section 8.2)."""
    field = int.from_bytes(content[21:26], "big") >> 36 << 36 | samples
    return content[:21] + field.to_bytes(5, "big") + content[26:]


def test_a_complete_file_causes_no_warning(content, read):
    samples, warning = read(content)
    assert len(samples) == 2 * RATE and not warning


@pytest.mark.parametrize("promised", [2 * RATE, 0])
def test_a_truncated_file_is_read_up_to_its_last_complete_frame(content, promised, read):
    samples, warning = read(set_total(content, promised)[: len(content) // 2])
    assert 0.8 * RATE < len(samples) <= RATE and len(samples) % BLOCK == 0
    np.testing.assert_array_equal(samples, read(content)[0][: len(samples)])
    assert warning == (
        f"its header promises 2.000 s, but only the first {len(samples) / RATE:.3f} s are there"
        if promised
        else "it ends within a frame, so its end may be missing"
    )


@pytest.mark.parametrize("promised", [0, RATE, 2 * RATE - 1, 2 * RATE + 1, 3 * RATE])
def test_a_wrong_number_of_samples_in_the_header(content, promised, read):
    """0 is what programs write that write to a pipe."""
    samples, warning = read(set_total(content, promised))
    np.testing.assert_array_equal(samples, read(content)[0])
    more = f"its header promises {promised / RATE:.3f} s, but only the first 2.000 s are there"
    assert warning == (more if promised > 2 * RATE else "")


def test_a_file_of_one_frame(encode, read):
    content = encode("FLAC", "PCM_24", seconds=0.05)
    for promised in (0, 2205, 9999):
        assert len(read(set_total(content, promised))[0]) == 2205


def test_tags_before_and_after_the_file(content, read):
    tag = b"ID3\4\0\0\0\0\0\x0a" + bytes(10)
    samples, warning = read(tag + content + b"TAG" + bytes(125))
    np.testing.assert_array_equal(samples, read(content)[0])
    assert not warning


@pytest.mark.parametrize("change", ["zeros", "missing", "more"])
def test_damage_in_the_middle_is_refused(content, change, read):
    half = len(content) // 2
    middle = {"zeros": bytes(3000), "missing": b"", "more": bytes(3000) + content[half : half + 3000]}[change]
    with pytest.raises(InputError, match="not readable as audio"):
        read(content[:half] + middle + content[half + 3000 :])
