"""The file with the histogram of a run's event scores."""

import io

import numpy as np
import pytest

from mfl_jax.errors import InputError
from mfl_jax.training import histogram_file
from mfl_jax.training.score_histograms import BINS


def test_a_histogram_comes_back_as_it_was_written(tmp_path):
    assert histogram_file.read_histogram(tmp_path) is None  # an earlier version, or a run without events
    histogram = np.zeros((2, 2, BINS), np.int64)
    histogram[0, 1, 7], histogram[1, 0, -1] = 2**40, 3
    histogram_file.write_histogram(tmp_path, histogram, ["bird singing", "приклад"])
    read, events = histogram_file.read_histogram(tmp_path)
    assert read.dtype == np.int64 and events == ("bird singing", "приклад")
    np.testing.assert_array_equal(read, histogram)
    assert [file.name for file in tmp_path.iterdir()] == ["score_histogram.npz"]
    histogram_file.write_histogram(tmp_path, histogram[:1].astype(np.int32), ["one"])  # replaces it
    assert histogram_file.read_histogram(tmp_path)[1] == ("one",)


def save(**arrays):
    return lambda file: np.savez(file, **arrays)


def npy_bytes(array):
    content = io.BytesIO()
    np.save(content, array)
    return content.getvalue()


COUNTS = np.zeros((1, 2, BINS), np.int64)
DAMAGED = {
    "half": lambda file: file.write_bytes(b"PK\x03\x04 half a file"),
    "empty": lambda file: file.write_bytes(b""),
    "one array": lambda file: file.write_bytes(npy_bytes(COUNTS)),
    "pickle": save(histogram=np.array([object()]), events=np.array(["a"])),
    "no events": save(histogram=COUNTS),
    "no labels": save(histogram=COUNTS, events=np.array("a")),
    "other events": save(histogram=COUNTS, events=np.array(["a", "b"])),
    "other bins": save(histogram=COUNTS[..., :-1], events=np.array(["a"])),
    "shares": save(histogram=COUNTS / 2, events=np.array(["a"])),
    "negative": save(histogram=COUNTS - 1, events=np.array(["a"])),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_damaged_files_are_refused(tmp_path, kind):
    DAMAGED[kind](tmp_path / histogram_file.FILE)
    with pytest.raises(InputError, match=r"score_histogram\.npz: not readable .*; delete it") as refused:
        histogram_file.read_histogram(tmp_path)
    assert "\n" not in str(refused.value)
