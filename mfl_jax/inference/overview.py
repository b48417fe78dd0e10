"""Writes the files that cover all recordings of a prediction: the table, the clips and the index page."""

import pathlib

from mfl_jax.inference import detections_table, event_clips, index_page
from mfl_jax.inference.finished_recordings import FinishedRecordings
from mfl_jax.inference.output_files import PAGES, OutputFiles
from mfl_jax.inference.predict_to_files import FinishedRun


def write_overview(
    run: FinishedRun, finished: FinishedRecordings, files: OutputFiles, *, page: bool, clips: int, clip_rate_hz: int
) -> None:  # fmt: skip
    """Writes `detections.csv`, `index.html` and the folder `clips`.

    Args:
      run: the outcome. If it was interrupted, no clips are written, which may take long.
      finished: the recordings that were predicted or reused.
      files: their files.
      page: whether to write `index.html`.
      clips: number of clips for each class and choice; 0 for none.
      clip_rate_hz: sampling rate of the clips.

    Raises:
      InputError: the clips can't be written.
      OSError: another file can't be written.
    """

    def link(recording: str) -> pathlib.PurePosixPath:
        return files.path(PAGES[0], recording, PAGES[1])

    detections_table.write_detections(finished.all(), files.folder / detections_table.FILE)
    if page:
        index_page.write_index(finished.all, run.refused, run.remaining, link, files.folder / index_page.FILE)
    if clips and not run.remaining:
        chosen = event_clips.choose_clips(finished.all(), clips)
        event_clips.write_clips(chosen, files.audio_files, clip_rate_hz, files.folder / event_clips.FOLDER)
