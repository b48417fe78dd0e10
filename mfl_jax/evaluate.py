"""From a checkpoint to scores, their floors, and results.json; and from two label lists to scores.

python -m mfl_jax.evaluate REFERENCE ESTIMATED
"""

import json
import pathlib

import rich.console
import rich.table
from absl import flags

from mfl_jax.errors import InputError
from mfl_jax.runtime import commandline, storage


def define_flags() -> None:
    """Defines the flags of the comparison of two label lists."""
    flags.DEFINE_string("out", None, "JSON file for the scores.")
    flags.DEFINE_list("labels", None, "Events to score; all of the reference by default.")
    flags.DEFINE_float("segment_s", 1.0, "Length of a segment in seconds.")
    flags.DEFINE_float("onset_collar_s", 0.2, "By how many seconds an onset may differ.")
    flags.DEFINE_float("offset_collar_s", 0.2, "By how many seconds an offset may differ, or")
    flags.DEFINE_float("offset_share", 0.5, "by this share of the length of the event, where that is more (0.2 in DCASE task 4).")


def compare_lists(arguments: list[str]) -> int:
    """Compares two label lists, whatever made them; returns the exit status."""
    from mfl_jax.scoring import event_scores

    if len(arguments) != 2:
        raise InputError(f"two label lists are compared, REFERENCE and ESTIMATED, not {len(arguments)}")
    names = ("labels", "segment_s", "onset_collar_s", "offset_collar_s", "offset_share")
    scores = event_scores.evaluate_lists(*arguments, **{name: flags.FLAGS[name].value for name in names})
    console = rich.console.Console()
    event_scores.print_scores(scores, console)
    if flags.FLAGS.out:
        storage.atomic_write(pathlib.Path(flags.FLAGS.out), json.dumps(scores, indent=1) + "\n")
        console.print(f"written: {flags.FLAGS.out}", soft_wrap=True, highlight=False, markup=False)
    return 0


if __name__ == "__main__":
    define_flags()
    commandline.run_with_arguments(compare_lists)
