"""All commands by one name: mfl-jax COMMAND [FLAGS].

mfl-jax COMMAND --help describes a command.
"""

import re
import runpy
import sys
from typing import NamedTuple

from mfl_jax.errors import suggest
from mfl_jax.version import __version__


class Command(NamedTuple):
    """A command.

    Attributes:
      module: module of `mfl_jax` that runs it.
      about: one line.
      flags: put in front of the user's.
    """

    module: str
    about: str
    flags: tuple[str, ...] = ()


COMMANDS = {
    "prepare": Command("main", "prepares a data set", ("--mode=prepare",)),
    "train": Command("main", "trains a system, then evaluates it", ("--mode=train",)),
    "evaluate": Command("evaluate", "compares two label lists; with --config, scores a trained run"),
    "tune": Command("main", "chooses thresholds and filters on the held-out fold", ("--mode=tune",)),
    "predict": Command("predict", "predicts the scenes and events of recordings"),
    "experiment": Command("experiment", "trains systems x seeds x alphas and reports on them"),
    "report": Command("report", "writes the report of an experiment again"),
    "export": Command("export", "exports a trained model to ONNX or StableHLO"),
    "import-labels": Command("import_labels", "turns annotations in other formats into label lists"),
}
EVALUATE_RUN = Command("main", "", ("--mode=evaluate",))


def find_command(name: str, arguments: list[str]) -> Command:
    """Returns what a name means: `evaluate` scores a run where --config is given."""
    if name == "evaluate" and any(re.match(r"--?config\b", word) for word in arguments):
        return EVALUATE_RUN
    return COMMANDS[name]


def main() -> None:
    """Runs the command that the first argument names, as `python -m mfl_jax.MODULE` would."""
    name, arguments = (sys.argv[1] if len(sys.argv) > 1 else ""), sys.argv[2:]
    if name in ("", "help", "--help", "-help", "-h"):
        print(_list_commands())
        sys.exit(0 if name else 2)
    if name == "--version":
        print(f"mfl_jax {__version__}")
        sys.exit(0)
    if name not in COMMANDS:
        sys.exit(_refuse(f"no command {name!r}{suggest(name, COMMANDS)}; the commands are {', '.join(COMMANDS)}"))
    command = find_command(name, arguments)
    if command.flags and any(re.match(r"--?mode\b", word) for word in arguments):
        sys.exit(_refuse(f"mfl-jax {name} takes no --mode; the modes are commands of their own, as in mfl-jax tune"))
    sys.argv[1:] = [*command.flags, *arguments]
    runpy.run_module(f"mfl_jax.{command.module}", run_name="__main__", alter_sys=True)


def _list_commands() -> str:
    lines = [f"  {name:<14} {command.about}" for name, command in COMMANDS.items()]
    text = (__doc__ or "").strip().replace("\n\n", "\n\nCommands:\n" + "\n".join(lines) + "\n\n", 1)
    return f"{text}\nmfl-jax --version prints the version."


def _refuse(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    main()
