"""Whatever happens to a file, it is read or refused in one line."""

import numpy as np
import pytest

from mfl_jax.errors import InputError

FORMATS = {
    "WAV": "PCM_24", "RF64": "PCM_16", "W64": "PCM_16", "AIFF": "PCM_16", "FLAC": "PCM_16", "OGG": "VORBIS",
    "MP3": "MPEG_LAYER_III",
}  # fmt: skip


def damage(content: bytearray, other: bytes, rng: np.random.Generator) -> None:
    """Changes a file in place, near its start as often as anywhere."""
    start = int(rng.integers(rng.choice([200, len(content)])))
    length = int(rng.integers(1, 2000))
    match rng.integers(6):
        case 0:
            del content[start : start + length]
        case 1:
            content[start:start] = rng.bytes(length)
        case 2:
            content[start : start + length] = bytes(len(content[start : start + length]))
        case 3:
            content[start : start + 8] = rng.bytes(8)
        case 4:
            del content[start + 1 :]
        case 5:
            content += other


@pytest.mark.parametrize("format", FORMATS)
def test_damaged_files_are_read_or_refused(encode, read, format):
    rng = np.random.default_rng(0)
    files = {name: encode(name, subtype, seconds=0.4, rate=16_000) for name, subtype in FORMATS.items()}
    outcomes = []
    for _ in range(40):
        content = bytearray(files[format])
        for _ in range(rng.integers(1, 4)):
            damage(content, files[rng.choice(list(files))], rng)
        try:
            samples, _ = read(bytes(content), 16_000)
        except InputError as error:
            assert "\n" not in str(error)
            outcomes.append("refused")
        else:
            assert len(samples) and np.isfinite(samples).all()
            outcomes.append("read")
    assert {"read", "refused"} == set(outcomes)
