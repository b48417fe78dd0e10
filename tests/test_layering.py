"""Imports point one way: from the commands down to the packages below them, and never in a circle."""

import ast
import graphlib
import pathlib

import pytest

from support import ROOT

BASE = {"errors", "metrics", "plot_style", "frame_mask", "version", "configs", "builders"}
"""Modules at the top level that any package may import."""
COMMANDS = {"main", "experiment", "evaluate", "import_labels", "predict", "report", "export", "analysis", "__init__", "__main__"}
BELOW = {
    "runtime": set(),
    "network": set(),
    "data": {"runtime"},
    "training": {"runtime", "network", "data"},
    "inference": {"runtime", "network", "data", "training"},
    "scoring": {"runtime", "network", "data", "training", "inference"},
    "reporting": {"runtime", "data", "training"},
    "exporting": {"runtime", "network", "data", "training", "inference"},
}
"""The packages that each package may import. Commands may import all of them."""


def module_name(file: pathlib.Path, root: pathlib.Path) -> str:
    parts = file.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def read_imports(root: pathlib.Path) -> dict[str, set[str]]:
    """Maps each module of `root`/mfl_jax to the modules of the project that it imports anywhere, function bodies included."""
    names = {module_name(file, root): file for file in (root / "mfl_jax").rglob("*.py")}
    imports = {}
    for name, file in names.items():
        imported = set()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{file}: relative import"
                imported |= {full if (full := f"{node.module}.{alias.name}") in names else node.module for alias in node.names}
            elif isinstance(node, ast.Import):
                imported |= {alias.name for alias in node.names}
        imports[name] = {target for target in imported if target in names and target != name}
    return imports


def find_violations(imports: dict[str, set[str]]) -> list[str]:
    """Lists the imports that the layering forbids."""
    violations = []
    for module, targets in imports.items():
        package = [*module.split("."), "__init__"][1]
        for target in targets:
            target_package = [*target.split("."), "__init__"][1]
            allowed = BELOW.get(package, set()) | BASE | {package}
            if package in COMMANDS:
                allowed |= set(BELOW) | COMMANDS
            if package in BASE:
                allowed = BASE
            if target_package not in allowed:
                violations.append(f"{module} imports {target}")
    return sorted(violations)


def test_every_import_points_to_a_lower_layer():
    imports = read_imports(ROOT)
    assert len(imports) > 60
    assert find_violations(imports) == []


def test_modules_import_each_other_in_no_circle():
    imports = read_imports(ROOT)
    # `import mfl_jax` alone opens no other module: `mfl_jax.load` imports late.
    list(graphlib.TopologicalSorter({name: targets for name, targets in imports.items() if name != "mfl_jax"}).static_order())


def test_every_module_has_a_home():
    packages = {name.split(".")[1] for name in read_imports(ROOT) if "." in name}
    assert packages == set(BELOW) | BASE | COMMANDS - {"__init__"}


def test_an_upward_import_and_a_circle_are_noticed(tmp_path):
    for name, text in {
        "runtime/a": "from mfl_jax.data import b",
        "data/b": "def late():\n    from mfl_jax.runtime.a import x",
        "main": "import mfl_jax.data.b",
    }.items():
        file = tmp_path / "mfl_jax" / f"{name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    imports = read_imports(tmp_path)
    assert find_violations(imports) == ["mfl_jax.runtime.a imports mfl_jax.data.b"]
    with pytest.raises(graphlib.CycleError):
        list(graphlib.TopologicalSorter(imports).static_order())
