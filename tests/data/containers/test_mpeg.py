"""Joined, truncated and damaged MP3 files, and files with and without a header that tells their length."""

import numpy as np
import pytest

from mfl_jax.errors import InputError

RATE = 44_100
FRAME = 1152
"""Samples of a frame of MPEG 1."""
XING_BYTES = 417
"""Length of the frame that holds the Xing header: 144 * 128 kbit/s / 44.1 kHz."""
DELAY = 529
"""Samples by which the decoder delays a recording whose encoder is unknown; it drops as many."""


@pytest.fixture(scope="module")
def content(encode):
    content = encode("MP3", "MPEG_LAYER_III", seconds=2)
    assert content[21:25] == b"Xing" and content[XING_BYTES : XING_BYTES + 2] == content[:2]
    return content


def list_frames(content: bytes) -> list[int]:
    """Lists where the frames start, by the bit rates of MPEG 1 layer III."""
    rates = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
    starts, at = [], 0
    while at + 4 < len(content):
        assert content[at : at + 2] == content[:2]
        starts.append(at)
        at += 144_000 * rates[content[at + 2] >> 4] // RATE + (content[at + 2] >> 1 & 1)
    assert at == len(content)
    return starts


def test_a_complete_file_causes_no_warning(content, read):
    samples, warning = read(content)
    assert len(samples) == 2 * RATE and not warning


def test_a_file_without_a_xing_header_is_read_to_its_end(content, read):
    """The bit rate varies. A decoder that takes the first one for that of all frames stops early."""
    frames = len(list_frames(content)) - 1
    assert len({content[at + 2] >> 4 for at in list_frames(content)}) > 2
    samples, warning = read(content[XING_BYTES:])
    assert len(samples) == frames * FRAME - DELAY and not warning
    with_header = read(content)[0]
    delay = int(np.argmax(np.correlate(samples[: 2000 + FRAME], with_header[:2000])))
    assert 0 < delay < FRAME
    np.testing.assert_allclose(samples[delay : delay + 2 * RATE], with_header[: len(samples) - delay], atol=1e-6)


def test_a_vbri_header_tells_the_length(content, read):
    """Fraunhofer's header: the name at byte 36 of the frame and the number of frames 14 bytes later."""
    starts = list_frames(content)
    vbri = (content[:4] + bytes(32) + b"VBRI" + bytes(10) + (len(starts) - 1).to_bytes(4, "big")).ljust(XING_BYTES, b"\0")
    expected = read(content[XING_BYTES:])[0]
    samples, warning = read(vbri + content[XING_BYTES:])
    np.testing.assert_array_equal(samples, expected)
    assert not warning
    samples, warning = read(vbri + content[XING_BYTES : starts[41]])
    promised_s, there_s = len(expected) / RATE, (40 * FRAME - DELAY) / RATE
    assert warning == f"its header promises {promised_s:.3f} s, but only the first {there_s:.3f} s are there"


def test_joined_files_of_which_some_have_no_xing_header(content, read):
    bare = content[XING_BYTES:]
    with_header, without = read(content)[0], read(bare)[0]
    for joined, parts in ((content + bare, (with_header, without)), (bare + content, (without, with_header))):
        samples, warning = read(joined)
        np.testing.assert_array_equal(samples, np.concatenate(parts))
        assert not warning
    # Nothing marks the border between two such files.
    assert len(read(bare + bare)[0]) == 2 * (len(list_frames(content)) - 1) * FRAME - DELAY


def test_tags_are_no_audio(content, read):
    first, last = b"ID3\4\0\0\0\0\1\0" + b"\xff\xfb" * 64, b"TAG" + b"\xff\xfb" * 62 + b"\0"
    ape = b"APETAGEX\xd0\x07\0\0" + (32).to_bytes(4, "little") + bytes(16) + bytes(32)
    tagged = first + content + ape + last
    samples, warning = read(tagged + tagged)
    np.testing.assert_array_equal(samples, np.tile(read(content)[0], 2))
    assert not warning


def test_a_truncated_file_is_read_and_its_loss_is_named(content, read):
    start = list_frames(content)[41]
    whole = read(content)[0]
    for cut in (start, start + 100):
        samples, warning = read(content[:cut])
        assert 38 * FRAME < len(samples) <= 40 * FRAME
        assert warning == f"its header promises 2.000 s, but only the first {len(samples) / RATE:.3f} s are there"
        np.testing.assert_array_equal(samples[: 38 * FRAME], whole[: 38 * FRAME])
        samples, warning = read(content[:cut] + content)
        assert warning.startswith("recording 1 of the 2 joined in it: its header promises 2.000 s")
        np.testing.assert_array_equal(samples[-len(whole) :], whole)


def test_evidence_of_a_loss_without_a_xing_header(content, read):
    bare = content[XING_BYTES:]
    cut = list_frames(content)[41] - XING_BYTES + 100
    assert read(bare[:cut])[1] == "it ends within a frame, so its end may be missing"
    assert read(bare + bytes(9000))[1] == "its last 9000 bytes are no MP3 frames, so its end may be missing"


@pytest.mark.parametrize("has_header", [True, False])
@pytest.mark.parametrize("change", ["zeros", "missing"])
def test_missing_frames_are_refused_with_their_time(content, has_header, change, read):
    """A decoder would go on at the next frame, so that all that follows came too early."""
    starts = list_frames(content)
    hole = starts[41] + 100, starts[44] + 50
    skipped = 0 if has_header else XING_BYTES
    middle = bytes(hole[1] - hole[0]) if change == "zeros" else b""
    with pytest.raises(InputError, match=r"bytes are no MP3 frames") as refused:
        read(content[skipped : hole[0]] + middle + content[hole[1] :])
    # 40 frames are before the damaged one, which may count.
    assert any(f"damaged at {frames * FRAME / RATE:.3f} s" in str(refused.value) for frames in (40, 41))


def test_bytes_between_complete_frames_are_named(content, read):
    start = list_frames(content)[41]
    samples, warning = read(content[:start] + b"metadata" * 50 + content[start:])
    np.testing.assert_array_equal(samples, read(content)[0])
    assert warning == f"400 bytes at {40 * FRAME / RATE:.3f} s are no MP3 frames"


@pytest.mark.parametrize(("rate", "channels"), [(8000, 1), (16_000, 2), (24_000, 1), (32_000, 2), (48_000, 1)])
def test_every_version_of_the_format(encode, rate, channels, read):
    content = encode("MP3", "MPEG_LAYER_III", seconds=1, rate=rate, channels=channels)
    expected, warning = read(content, rate)
    assert len(expected) == rate and not warning
    samples, warning = read(content + content, rate)
    np.testing.assert_array_equal(samples, np.tile(expected, 2))
    assert not warning
