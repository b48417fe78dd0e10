"""The formats of an exported model: their file names and the packages that they need."""

import importlib

from mfl_jax.errors import InputError
from mfl_jax.runtime.installation import install_command

FILES = {"onnx": "model.onnx", "stablehlo": "model.stablehlo"}
"""Format -> name of its file."""
PACKAGES = {"onnx": ("onnx", "onnxruntime"), "stablehlo": ("flatbuffers",)}
"""Format -> packages that building and running it need, beyond the project's own dependencies."""


def require_package(package: str) -> None:
    """Raises an InputError if a package is not installed."""
    try:
        importlib.import_module(package)
    except ImportError:
        raise InputError(f"this export needs {package}, which is not installed: {install_command('onnx')}") from None
