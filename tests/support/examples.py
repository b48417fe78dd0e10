"""The programs of examples/ as modules."""

import importlib.util
import types

from support import ROOT


def load_example(name: str) -> types.ModuleType:
    """Loads examples/NAME.py, which is in no package."""
    spec = importlib.util.spec_from_file_location(f"{name}_example", ROOT / "examples" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
