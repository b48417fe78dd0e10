"""Writes the report of an experiment again: tables, figures and a page.

python -m mfl_jax.report runs/table4
"""

from mfl_jax.errors import InputError
from mfl_jax.runtime import commandline


def run(arguments: list[str]) -> int:
    """Runs the command; returns its exit status."""
    from mfl_jax.reporting.write_report import write_report  # here, so that --help and wrong flags answer at once
    from mfl_jax.runtime import storage

    if len(arguments) != 1:
        raise InputError(f"expected the work directory of one experiment, e.g. runs/table4, not {len(arguments)} arguments")
    home = storage.resolve_folder(arguments[0])
    if not (home / "config.json").is_file() or not (home / "data.json").is_file():
        raise InputError(f"{home}: not the work directory of an experiment")
    write_report(home)
    return 0


if __name__ == "__main__":
    commandline.run_with_arguments(run)
