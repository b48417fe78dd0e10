"""Computes one piece in a process of its own: python -m benchmarks.accelerator.one_piece NAME [--small]."""

import json
import sys
import traceback

from benchmarks.accelerator import stand_ins


def main(name: str, *flags: str) -> None:
    """Prints the figures of a piece, one JSON object per line; ends with status 1 and the error in the last line if it fails."""
    stand_ins.install()
    from benchmarks.accelerator import pieces, setting  # after the stand-ins, which these may import

    try:
        for figures in pieces.PIECES[name].measure(setting.SMALL if "--small" in flags else setting.FULL):
            print(json.dumps(figures), flush=True)
    except Exception as error:
        traceback.print_exc()
        # JAX ends its tracebacks with a note on the traceback.
        sys.exit(one_line(error))


def one_line(error: Exception) -> str:
    """Returns the type of an error and the first line of its message."""
    return f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0][:300]}"


if __name__ == "__main__":
    main(*sys.argv[1:])
