"""Stands in for packages that a machine with an accelerator may lack, so that training loops run there.

`grain` reads batches and `tensorboardX` logs. Neither is what the benchmark times.
"""

import importlib.util
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any


class MapDataset:
    """The part of grain that training uses, without reading ahead."""

    def __init__(self, items: Sequence, function: Callable = lambda item: item):
        self.items, self.function = items, function

    @classmethod
    def source(cls, items: Sequence) -> "MapDataset":
        return cls(items)

    def map(self, function: Callable) -> "MapDataset":
        return MapDataset(self.items, function)

    def to_iter_dataset(self, options: Any) -> "MapDataset":
        return self

    def __iter__(self) -> Iterator:
        for item in self.items:
            yield self.function(item)


class SummaryWriter:
    """tensorboardX's, which writes nothing here."""

    def __init__(self, *_, **__):
        pass

    def add_scalar(self, *_):
        pass

    def flush(self):
        pass

    def close(self):
        pass


CONTENTS = {
    "grain": {"MapDataset": MapDataset, "ReadOptions": lambda **_: None},
    "tensorboardX": {"SummaryWriter": SummaryWriter},
}


def install() -> None:
    """Puts a stand-in in the place of each package that is missing."""
    for name, contents in CONTENTS.items():
        if importlib.util.find_spec(name) is None:
            sys.modules[name] = types.ModuleType(name)
            vars(sys.modules[name]).update(contents)


def installed() -> list[str]:
    """Names the packages that have been replaced."""
    return [name for name, contents in CONTENTS.items() if contents.items() <= vars(sys.modules.get(name, sys)).items()]
