"""Writes the report of an experiment again: tables, figures and a page.

python -m mfl_jax.report runs/table4
"""

import sys
from collections.abc import Sequence

from mfl_jax.errors import InputError
from mfl_jax.reporting.write_report import write_report
from mfl_jax.runtime import storage


def main(arguments: Sequence[str]) -> int:
    """Runs the command; returns its exit status."""
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print((__doc__ or "").strip())
        return 0 if list(arguments) in (["--help"], ["-h"]) else 2
    try:
        home = storage.resolve_folder(arguments[0])
        if not (home / "config.json").is_file() or not (home / "data.json").is_file():
            raise InputError(f"{home}: not the work directory of an experiment")
        write_report(home)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
