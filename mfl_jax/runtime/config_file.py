"""The flag --config: a name or a file to a config, with errors in one line."""

import importlib.machinery
import importlib.util
import inspect
import pathlib
import pkgutil
import re
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import ModuleType

from absl import flags
from ml_collections import ConfigDict, config_flags

from mfl_jax import configs
from mfl_jax.errors import InputError, suggest

OVERRIDE = re.compile(r"--?(?:no)?config\.([^=]+)")


def define_flag(text: str) -> flags.FlagHolder:
    """Defines the flag --config; `text` is its help."""
    holder = config_flags.DEFINE_config_file("config", None, text)
    flags.FLAGS["config"].parser = _ConfigParser()
    return holder


class _ConfigParser(flags.ArgumentParser):
    def parse(self, argument: str) -> ConfigDict:
        config = load_config(argument)
        check_overrides(config, flags.FLAGS.read_flags_from_files(sys.argv, force_gnu=False))
        config.lock()
        return config


def load_config(text: str) -> ConfigDict:
    """Loads a config: NAME, FILE, NAME:VARIANT or FILE:VARIANT.

    Raises:
      InputError: no such config or variant, or an error in the file.
    """
    place, *variant = text.split(":", 1)
    file = find_file(place)
    try:
        get_config = getattr(_load_module(file), "get_config", None)
        if get_config is None:
            raise InputError(f"{place}: no config file, it defines no get_config()")
        if variant and not inspect.signature(get_config).parameters:
            raise InputError(f"{place} has no variants; leave out ':{variant[0]}'")
        config = get_config(*variant)
    except InputError:
        raise
    except Exception as error:
        raise InputError(_explain(error, file, variant)) from error
    if not isinstance(config, ConfigDict):
        raise InputError(f"{place}: get_config() must return an ml_collections.ConfigDict")
    return config


def find_file(place: str) -> pathlib.Path:
    """Finds the file of a config by its path, or by its name in `mfl_jax.configs`.

    Raises:
      InputError: no such file or config.
    """
    if (file := pathlib.Path(place)).is_file():
        return file
    known = sorted(module.name for module in pkgutil.iter_modules(configs.__path__))
    if place in known:
        return pathlib.Path(configs.__path__[0], f"{place}.py")
    if file.suffix or len(file.parts) > 1:
        advice = f"; --config={file.stem} works in every folder" if file.stem in known else ""
        raise InputError(f"{place}: no such config file{advice}")
    raise InputError(f"no config {place!r}{suggest(place, known)}; known: {', '.join(known)}; or name a file")


def _load_module(file: pathlib.Path) -> ModuleType:
    loader = importlib.machinery.SourceFileLoader("mfl_jax_config_file", str(file))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[loader.name] = module  # dataclasses in the file look for it
    loader.exec_module(module)
    return module


def _explain(error: Exception, file: pathlib.Path, variant: Sequence[str]) -> str:
    """Describes an error in a config file in one line."""
    if variant and isinstance(error, ValueError):
        return str(error)
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
    line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
    message = error.msg if isinstance(error, SyntaxError) else error
    advice = "; write `from mfl_jax.configs import ...`" if getattr(error, "name", None) == "configs" else ""
    return f"{file}{f', line {line}' if line else ''}: {type(error).__name__}: {message}{advice}"


def field_names(config: Mapping, prefix: str = "") -> Iterator[str]:
    """Yields the name of every field of a config, those of a section with a dot."""
    for name, value in config.items():
        if isinstance(value, Mapping | ConfigDict):
            yield from field_names(value, f"{prefix}{name}.")
        yield prefix + name


def check_overrides(config: ConfigDict, arguments: Iterable[str]) -> None:
    """Raises an InputError if an argument --config.FIELD names a field that the config lacks."""
    known = set(field_names(config))
    for argument in arguments:
        match = OVERRIDE.match(argument)
        if match and "[" not in match[1] and match[1] not in known:
            raise InputError(f"no config field {match[1]!r}{suggest(match[1], known)}; --config_help lists them")
