"""WAV, RF64, W64 and AIFF files whose headers promise more or less than there is, and joined ones."""

import struct

import numpy as np
import pytest

from mfl_jax.errors import InputError

RATE = 44_100
FORMATS = {"WAV": "PCM_16", "WAVEX": "PCM_24", "RF64": "PCM_16", "W64": "PCM_24", "AIFF": "PCM_16"}
BYTES = {"PCM_16": 2, "PCM_24": 3}
UNCLOSED = "its header was never completed; it is read up to the end of the file"


@pytest.fixture
def whole(encode, request):
    """The content of a file with one second of noise."""
    return encode(request.param, FORMATS[request.param], seconds=1)


every_format = pytest.mark.parametrize(
    ("whole", "sample_bytes"), [(name, BYTES[FORMATS[name]]) for name in FORMATS], ids=list(FORMATS), indirect=["whole"]
)


@every_format
def test_complete_files_cause_no_warning(whole, sample_bytes, read):
    samples, warning = read(whole)
    assert len(samples) == RATE and not warning


@every_format
def test_a_truncated_file_is_read_and_its_loss_is_named(whole, sample_bytes, read):
    samples, warning = read(whole[: -11_025 * sample_bytes])  # a quarter of a second
    np.testing.assert_array_equal(samples, read(whole)[0][: 3 * 11_025])
    assert warning == "its header promises 1.000 s, but only the first 0.750 s are there"


@every_format
def test_joined_files_follow_each_other(whole, sample_bytes, encode, read):
    """The second one has another rate and other channels: half as many samples a second, so twice as long here."""
    other = encode("AIFF", "PCM_16", seconds=0.5, rate=RATE // 2, channels=2, seed=1)
    samples, warning = read(whole + other + whole)
    assert len(samples) == RATE + RATE // 2 + RATE and not warning
    np.testing.assert_array_equal(samples[:RATE], read(whole)[0])
    np.testing.assert_array_equal(samples[RATE:-RATE], read(other)[0])
    np.testing.assert_array_equal(samples[-RATE:], samples[:RATE])


@every_format
def test_each_truncated_file_of_joined_ones_is_named(whole, sample_bytes, read):
    samples, warning = read(whole + whole[: -11_025 * sample_bytes])
    assert len(samples) == RATE + 3 * 11_025
    assert warning == "recording 2 of the 2 joined in it: its header promises 1.000 s, but only the first 0.750 s are there"


@every_format
def test_bytes_after_the_samples_are_named_if_they_may_be_samples(whole, sample_bytes, read):
    samples, warning = read(whole + bytes(22_050 * sample_bytes))
    assert len(samples) == RATE
    assert warning == "0.500 s worth of bytes follow the 1.000 s that its header promises; they are not read"
    samples, warning = read(whole + b"TAG" + bytes(125))
    assert len(samples) == RATE and not warning


def sizes_of(content: bytes) -> dict[str, tuple[int, str]]:
    """Returns where a file made by libsndfile writes its sizes, and how."""
    data = content.index(b"SSND" if content[:4] == b"FORM" else b"data")
    if content[:4] == b"RF64":
        ds64 = content.index(b"ds64")
        return {"file": (ds64 + 8, "<Q"), "data": (ds64 + 16, "<Q"), "count": (ds64 + 24, "<Q")}
    if content[:4] == b"FORM":
        return {"file": (4, ">I"), "data": (data + 4, ">I"), "count": (content.index(b"COMM") + 10, ">I")}
    if content[:4] == b"riff":
        return {"file": (16, "<Q"), "data": (data + 16, "<Q")}
    return {"file": (4, "<I"), "data": (data + 4, "<I")}


def set_sizes(content: bytes, **sizes: int) -> bytes:
    changed = bytearray(content)
    for name, (position, form) in sizes_of(content).items():
        if name in sizes:
            changed[position : position + struct.calcsize(form)] = struct.pack(form, sizes[name])
    return bytes(changed)


@every_format
@pytest.mark.parametrize("file_size", [0, 8, 36, None])
def test_a_header_that_was_never_completed(whole, sample_bytes, file_size, read):
    """A recorder that loses power leaves the sizes as they were before the first sample."""
    empty = {b"FORM": 8, b"riff": 24}.get(whole[:4], 0)  # what the size of no samples is
    sizes = {"data": empty, "count": 0} | ({} if file_size is None else {"file": file_size})
    samples, warning = read(set_sizes(whole, **sizes))
    np.testing.assert_array_equal(samples, read(whole)[0])
    assert warning == UNCLOSED


@pytest.mark.parametrize("size", [0x7FFF_F000, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF])
@pytest.mark.parametrize("whole", ["WAV", "WAVEX", "AIFF"], indirect=True)
def test_an_unknown_length_is_no_cause_for_a_warning(whole, size, read):
    """Programs that write to a pipe can't complete the header."""
    samples, warning = read(set_sizes(whole, file=size, data=size))
    np.testing.assert_array_equal(samples, read(whole)[0])
    assert not warning


@pytest.mark.parametrize("whole", ["WAV", "AIFF"], indirect=True)
def test_a_header_that_promises_less_than_there_is(whole, read):
    head = 8 if whole[:4] == b"FORM" else 0
    samples, warning = read(set_sizes(whole, data=head + 2 * 33_075))
    assert len(samples) == 33_075
    assert warning == "0.250 s worth of bytes follow the 0.750 s that its header promises; they are not read"


@pytest.mark.parametrize("after", [b"", b"LIST\4\0\0\0INFO", b"LIST\4\0\0\0INFOid3 \3\0\0\0abc\0"])
def test_an_empty_recording_stays_empty(encode, after, read):
    with pytest.raises(InputError, match=r"the recording is empty \(0 samples\)"):
        read(encode("WAV", "PCM_16", seconds=0) + after)


@pytest.mark.parametrize("name", ["WAV", "W64"])
def test_chunks_after_the_samples_are_neither_samples_nor_a_cause_for_a_warning(encode, name, read):
    content = encode(name, "PCM_16", seconds=1)
    size = 88_208
    chunk = b"junk" + (struct.pack("<I", size) if name == "WAV" else bytes(12) + struct.pack("<Q", size + 24)) + bytes(size)
    content += bytes(-len(content) % 8 if name == "W64" else 0)
    samples, warning = read(content + chunk)
    np.testing.assert_array_equal(samples, read(content)[0])
    assert len(samples) == RATE and not warning


def test_compressed_wav_is_measured_in_seconds_too(encode, read):
    """GSM 6.10 has 65 bytes for 320 samples; the header of the file is 60 bytes long."""
    content = encode("WAV", "GSM610", seconds=8, rate=8000)
    assert len(content) == 60 + 65 * 200
    samples, warning = read(content[: 60 + 65 * 50], rate=8000)
    assert len(samples) == 2 * 8000
    assert warning == "its header promises 8.000 s, but only the first 2.000 s are there"
