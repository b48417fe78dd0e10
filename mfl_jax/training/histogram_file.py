"""The histogram of a run's event scores, in a file beside results.json."""

import io
import pathlib
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mfl_jax.errors import InputError
from mfl_jax.runtime import storage
from mfl_jax.training.score_histograms import BINS, summarise_scores

FILE = "score_histogram.npz"


def write_histogram(folder: pathlib.Path, histogram: np.ndarray, events: Sequence[str]) -> None:
    """Writes the histogram of a run into its work directory atomically.

    Args:
      folder: work directory of the run.
      histogram: sum of what `score_histograms.count_scores` returns [shape=(E, 2, BINS)].
      events: the labels of its E events.
    """
    content = io.BytesIO()
    np.savez_compressed(content, histogram=np.asarray(histogram, np.int64), events=np.array(events, np.str_))
    storage.atomic_write(folder / FILE, content.getvalue())


def read_histogram(folder: pathlib.Path) -> tuple[np.ndarray, tuple[str, ...]] | None:
    """Reads the histogram of a run.

    Returns:
      The histogram, int64 [shape=(E, 2, BINS)], and the labels of its E events; None if there is no file, as after an evaluation
      by an earlier version or of a run without events.

    Raises:
      InputError: the file is damaged.
    """
    file = folder / FILE
    if not file.is_file():
        return None
    try:
        with np.load(io.BytesIO(file.read_bytes()), allow_pickle=False) as stored:
            histogram, events = stored["histogram"], stored["events"]
        if histogram.shape != (*events.shape, 2, BINS) or events.ndim != 1 or histogram.dtype != np.int64 or histogram.min() < 0:
            raise ValueError(f"histogram {histogram.dtype}{histogram.shape}, events {events.dtype}{events.shape}")
    except (ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{file}: not readable ({error}); delete it to do without pooled event scores") from None
    return histogram, tuple(events.tolist())


def read_matching_histogram(folder: pathlib.Path, results: Mapping[str, Any]) -> np.ndarray | None:
    """Reads the histogram of a run, int64 [shape=(E, 2, BINS)].

    Args:
      folder: work directory of the run.
      results: its results.json.

    Returns:
      The histogram; None if the file is missing, or if its events or counts differ from those of results.json because another
      evaluation wrote it.

    Raises:
      InputError: the file is damaged.
    """
    if "event_probabilities" not in results or (read := read_histogram(folder)) is None:
        return None
    histogram, events = read

    def count_cells(probabilities: Mapping[str, Any]) -> list[int]:
        return [interval["cells"] for interval in probabilities["reliability"]]

    same = count_cells(summarise_scores(histogram)) == count_cells(results["event_probabilities"])
    return histogram if same and list(events) == results["events"] else None
