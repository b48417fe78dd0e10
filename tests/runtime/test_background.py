"""Work in the background: one function at a time, in order, with its errors."""

import threading

import pytest

from mfl_jax.runtime import parallel
from mfl_jax.runtime.background import Background


def test_functions_run_beside_the_caller_and_in_order():
    started, released, order = threading.Event(), threading.Event(), []

    def first():
        started.set()
        assert released.wait(10)
        order.append("first")

    with Background() as background:
        background.submit(first)
        assert started.wait(10) and order == []  # the caller goes on meanwhile
        threading.Timer(0.05, released.set).start()
        background.submit(order.append, "second")  # waits for the first
        assert order[0] == "first"
    assert order == ["first", "second"]


def test_an_error_is_raised_once_at_the_next_call():
    background = Background()
    background.submit(lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        background.submit(int)
    background.wait()
    with pytest.raises(ZeroDivisionError), background:
        background.submit(lambda: 1 / 0)


def test_an_error_of_the_caller_comes_first():
    with pytest.raises(KeyError), Background() as background:
        background.submit(lambda: 1 / 0)
        raise KeyError


def test_several_hosts_run_in_the_caller(monkeypatch):
    monkeypatch.setattr(parallel, "host_count", lambda: 2)
    threads = []
    with Background() as background:
        background.submit(lambda: threads.append(threading.current_thread()))
    assert threads == [threading.current_thread()]
