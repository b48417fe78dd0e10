"""The table of the detected events of all recordings: `detections.csv`."""

import csv
import pathlib
from collections.abc import Iterable

from mfl_jax.inference.finished_recordings import FinishedRecording
from mfl_jax.runtime import storage

FILE = "detections.csv"
HEADER = ("file", "start", "end", "event", "confidence")


def write_detections(recordings: Iterable[FinishedRecording], file: pathlib.Path) -> None:
    """Writes one row per detected event, times in seconds, quoted as the csv module, Excel and pandas read it."""
    with storage.atomic_path(file) as part, part.open("w", encoding="utf-8", errors="replace", newline="") as out:
        table = csv.writer(out, lineterminator="\n")
        table.writerow(HEADER)
        for recording in recordings:
            for event in recording.detected:
                times = f"{event.onset_s:.6f}", f"{event.offset_s:.6f}"
                table.writerow([recording.recording, *times, event.label, f"{event.confidence:.6f}"])
