"""Compares two label lists, whatever program or person wrote them.

python -m mfl_jax.evaluate REFERENCE ESTIMATED

A trained run is scored by `python -m mfl_jax.main --mode=evaluate`, which `mfl-jax evaluate --config=NAME` starts too.
"""

import json
from typing import Any

import rich.console
from absl import flags

from mfl_jax.errors import InputError
from mfl_jax.runtime import command_help, commandline, storage

TOLERANCES = ("segment_s", "onset_collar_s", "offset_collar_s", "offset_share")


def define_flags() -> None:
    """Defines the flags of the command."""
    command_help.group("Tolerances", *TOLERANCES)
    flags.DEFINE_string("out", None, "JSON file to write the scores to.")
    flags.DEFINE_list("labels", None, "Events to score; all events of the reference by default.")
    flags.DEFINE_float("segment_s", 1.0, "Length of a segment in seconds.")
    flags.DEFINE_float("onset_collar_s", 0.2, "Largest difference of onsets in seconds.")
    flags.DEFINE_float("offset_collar_s", 0.2, "Largest difference of offsets in seconds, unless --offset_share permits more.")
    flags.DEFINE_float("offset_share", 0.5, "Largest difference of offsets as a share of the event (DCASE task 4: 0.2).")


def compare_lists(arguments: list[str]) -> int:
    """Compares the two label lists named by the arguments; returns the exit status."""
    from mfl_jax.scoring import event_list_scores, score_tables  # here, so that --help and wrong flags answer at once

    if len(arguments) != 2:
        raise InputError(f"expected two label lists, REFERENCE and ESTIMATED, not {len(arguments)}")
    reference, estimated = arguments
    tolerances: dict[str, Any] = {name: flags.FLAGS[name].value for name in TOLERANCES}
    scores = event_list_scores.score_event_files(
        reference, estimated, labels=flags.FLAGS.labels, tolerances=event_list_scores.Tolerances(**tolerances)
    )
    console = rich.console.Console()
    score_tables.print_event_scores(scores, console)
    if flags.FLAGS.out:
        try:
            storage.atomic_write(storage.expand_path(flags.FLAGS.out), json.dumps(scores, indent=1) + "\n")
        except OSError as error:
            raise InputError(f"--out={flags.FLAGS.out}: can't be written ({error.strerror or error})") from None
        console.print(f"written: {flags.FLAGS.out}", soft_wrap=True, highlight=False, markup=False)
    return 0


if __name__ == "__main__":
    define_flags()
    commandline.run_with_arguments(compare_lists)
