"""The progress bar that all commands share."""

import rich.console
import rich.progress


def progress_bar(
    unit: str, *columns: rich.progress.ProgressColumn, console: rich.console.Console | None = None
) -> rich.progress.Progress:
    """Returns a progress bar: description, bar, count, unit, time elapsed and time left.

    Args:
      unit: of the count, e.g. `clips`; may refer to fields of the task, as in `{task.fields[rate]} x real time`.
      *columns: replace the count, such as bytes and bytes per second.
      console: to draw on; standard error by default.
    """
    return rich.progress.Progress(
        "{task.description}",
        rich.progress.BarColumn(),
        *(columns or [rich.progress.MofNCompleteColumn()]),
        unit,
        rich.progress.TimeElapsedColumn(),
        rich.progress.TimeRemainingColumn(),
        "left",
        console=console or rich.console.Console(stderr=True),
    )
