"""Shared by the tests: small data sets, networks, batches and runs."""

import pathlib

ROOT = pathlib.Path(__file__).parent.parent.parent
"""The checkout."""
TESTS = ROOT / "tests"
