"""Sandboxes for the tests of the launch scripts."""

import signal

import pytest

from support.launching import Sandbox


@pytest.fixture(scope="session", autouse=True)
def default_sigint():
    """Restores the default SIGINT handler: a test suite in the background ignores SIGINT, and the scripts would inherit that."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def sandbox(tmp_path) -> Sandbox:
    return Sandbox(tmp_path)


@pytest.fixture(scope="session")
def read_only_sandbox(tmp_path_factory) -> Sandbox:
    """One sandbox for all tests whose script must not run anything."""
    return Sandbox(tmp_path_factory.mktemp("read_only"))
