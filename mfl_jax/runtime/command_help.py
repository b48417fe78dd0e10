"""The help text of a command: its description and its flags in groups, at most 80 columns wide."""

import re
import sys
import textwrap
from collections.abc import Iterator

from absl import flags

WIDTH = 80
FIELDS = {"--config.FIELD=VALUE": "Sets a field of the config. --config_help lists the fields."}
HELP = {"--help": "Prints this text.", "--version": "Prints the version."}
CONFIG_HELP = {"--config_help": "Lists the fields of the config: value, unit and meaning."}
GROUPS = {"mfl_jax.runtime.hosts": "Several hosts"}
"""Module that defines flags -> heading. The flags of the command itself come first."""
_headings: dict[str, str] = {}
"""Name of a flag -> heading, where `group` set one."""


def group(heading: str, *names: str) -> None:
    """Puts flags under a heading of their own in the help text."""
    _headings.update(dict.fromkeys(names, heading))


def format_help(description: str) -> str:
    """Returns the help text of the command whose flags are defined.

    Args:
      description: the docstring of the command.
    """
    groups = group_flags()
    sections = [_wrap_description(description)]
    for heading, members in groups.items():
        entries = {}
        for flag in members:
            entries[_signature(flag)] = _describe(flag)
            entries |= FIELDS if flag.name == "config" else {}
        sections.append(_format_group(heading, entries))
    sections.append(_format_group("Help", HELP | (CONFIG_HELP if "config" in flags.FLAGS else {})))
    return "\n\n".join(sections) + "\n"


def group_flags() -> dict[str, list[flags.Flag]]:
    """Returns the flags of this project by group; those of absl and other packages are left out."""
    groups: dict[str, list[flags.Flag]] = {"Flags": []}
    for module, members in flags.FLAGS.flags_by_module_dict().items():
        if module == sys.argv[0] or module.startswith("mfl_jax."):
            for flag in members:
                groups.setdefault(_headings.get(flag.name) or GROUPS.get(module, "Flags"), []).append(flag)
    return {heading: members for heading, members in groups.items() if members}


def _wrap_description(text: str) -> str:
    """Wraps the paragraphs of a docstring; lines that show a command stay lines of their own."""
    return "\n\n".join("\n".join(_wrap_paragraph(paragraph)) for paragraph in text.strip().split("\n\n"))


def _wrap_paragraph(paragraph: str) -> Iterator[str]:
    if paragraph.lstrip().startswith(("python ", "mfl-jax ")):
        for line in paragraph.splitlines():
            yield textwrap.fill(line, WIDTH, subsequent_indent="    ", break_on_hyphens=False, break_long_words=False)
    elif paragraph.startswith(" "):
        yield paragraph
    else:
        yield textwrap.fill(" ".join(paragraph.split()), WIDTH)


def _format_group(heading: str, entries: dict[str, str]) -> str:
    lines = [f"{heading}:"]
    for signature, text in entries.items():
        lines.append(f"  {signature}")
        lines.append(textwrap.fill(text, WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6, break_on_hyphens=False))
    return "\n".join(lines)


def _signature(flag: flags.Flag) -> str:
    if flag.boolean:
        return f"--[no]{flag.name}"
    if isinstance(flag.parser, flags.EnumParser):
        return f"--{flag.name}={'|'.join(flag.parser.enum_values)}"
    number = isinstance(flag.parser, flags.FloatParser | flags.IntegerParser)
    return f"--{flag.name}={'NUMBER' if number else flag.name.upper()}"


def _describe(flag: flags.Flag) -> str:
    """Returns the help text of a flag, and its default if it has one that the text does not mention."""
    text = re.sub(r"^<[^>]*>: ", "", flag.help or "")  # absl puts the options of an enum first
    if flag.default in (None, False) or "default" in text:
        return text
    default = ",".join(flag.default) if isinstance(flag.default, list) else flag.default
    return f"{text} Default: {default}."
