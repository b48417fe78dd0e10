"""The fields of a config with their units and meanings, which are the comments of `configs/default.py`.

A comment beside a field or directly above it belongs to the field; one after an empty line is the heading of a section. `[s]` at
the start of a comment is a unit.
"""

import ast
import importlib
import pathlib
import re
import textwrap
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from mfl_jax import configs

FUNCTIONS = {"get_config": "", "experiment": "Experiments"}
"""The functions of `configs/default.py` that define fields, and the first section of each."""


class Field(NamedTuple):
    """A field of a config.

    Attributes:
      section: heading; empty before the first one.
      name: with a dot for a field of a section, as in audio.clip_s.
      unit: empty if it has none.
      meaning: one or several sentences; may be empty.
    """

    section: str
    name: str
    unit: str
    meaning: str


def read_fields() -> list[Field]:
    """Reads the fields from the source of the default config, in its order."""
    source = pathlib.Path(configs.__path__[0], "default.py").read_text(encoding="utf-8")
    fields: dict[str, Field] = {}
    for function in ast.parse(source).body:
        if isinstance(function, ast.FunctionDef) and function.name in FUNCTIONS:
            lines = source.splitlines()[function.lineno - 1 : function.end_lineno]
            for field in _parse_function(lines, FUNCTIONS[function.name]):
                fields.setdefault(field.name, field)
    return list(fields.values())


def _parse_function(lines: list[str], section: str) -> Iterator[Field]:
    above: list[str] = []
    after_gap = is_heading = False
    for line in map(str.strip, lines):
        if line.startswith("#"):
            is_heading = is_heading or (after_gap and not above)
            above.append(line.lstrip("# "))
        elif match := re.match(r"config\.([\w.]+) = (?:[^#\"]|\"[^\"]*\")*(?:# *(.*))?$", line):
            if is_heading:
                section, above, is_heading = " ".join(above), [], False
            comment = " ".join([*above, match[2] or ""]).strip()
            unit, meaning = re.findall(r"^(?:\[([^]]+)\])? *(.*)", comment)[0]
            yield Field(section, match[1], unit, meaning)
            above = []
        after_gap = not line


def run_defaults() -> Mapping:
    """Returns the default config of a run."""
    return importlib.import_module("mfl_jax.configs.default").get_config()


def all_defaults() -> Mapping:
    """Returns the default config of an experiment, which has every field."""
    return importlib.import_module("mfl_jax.configs.default").experiment("default", [])


def format_fields(config: Mapping, width: int = 80) -> str:
    """Lists the fields of a config: value, unit and meaning."""
    blocks, section = [], ""
    described = [field for field in read_fields() if _value(config, field.name) is not None]
    for field in described:
        if field.section != section:
            section = field.section
            blocks.append("\n" + textwrap.fill(section, width))
        value = _value(config, field.name)
        is_section = any(other.name.startswith(f"{field.name}.") for other in described)
        shown = "" if is_section else f" = {value.to_dict() if hasattr(value, 'to_dict') else value!r}"
        line = f"  config.{field.name}{shown}{f' [{field.unit}]' if field.unit else ''}"
        blocks.append(textwrap.fill(line, width, subsequent_indent=" " * 6))
        if field.meaning:
            blocks.append(textwrap.fill(field.meaning, width, initial_indent=" " * 6, subsequent_indent=" " * 6))
    return "\n".join(blocks)


def _value(config: Mapping, name: str):
    for part in name.split("."):
        if part not in config:
            return None
        config = config[part]
    return config
