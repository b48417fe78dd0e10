"""Assigns the kernels of a profile to the parts of the network.

XLA names the operation that each kernel computes, and the program's text the `jax.named_scope` that the operation comes from.
"""

import collections
import re
from collections.abc import Mapping
from typing import NamedTuple

CLASSES = ("recurrence", "first_block", "other_convolutions", "rest")
CONTROL_FLOW = ("while", "conditional", "call")
"""Operations that last as long as those inside them."""
_OPERATION = re.compile(r"\s+(?:ROOT )?%?([\w.\-]+) = (?:\(.*?\)|\S+) ([\w\-]+)\(")
_SCOPE = re.compile(r'op_name="([^"]*)"')
_COMPUTATION = re.compile(r"(?:ENTRY )?%?([\w.\-]+) \(.*\{$")


class Kernel(NamedTuple):
    """An entry of a profile: its name, the operation it computes ("" if unknown), and how long it took."""

    name: str
    operation: str
    nanoseconds: float


def classify_operations(text: str) -> dict[str, str | None]:
    """Maps each operation of a compiled program to its class; control flow has none.

    A fusion without a scope of its own gets the most frequent class of the operations in it. Each operation is listed a second
    time with `_` for `.`, as kernels are named.

    Args:
      text: the program, from `jax.stages.Compiled.as_text`; a computation comes before those that call it.
    """
    classes: dict[str, str | None] = {}
    inside: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
    computation = ""
    for line in text.split("\n"):
        if match := _COMPUTATION.match(line):
            computation = match[1]
        elif match := _OPERATION.match(line):
            name, kind = match.groups()
            scope, called = _SCOPE.search(line), re.search(r"calls=%?([\w.\-]+)", line)
            if kind in CONTROL_FLOW:
                classes[name] = None
            elif scope:
                classes[name] = _classify_scope(scope[1], kind)
                inside[computation][classes[name]] += 1
            else:
                ((classes[name], _),) = inside[called[1] if called else ""].most_common(1) or [("rest", 0)]
    return {re.sub(r"\W", "_", name): kind for name, kind in classes.items()} | classes


def _classify_scope(scope: str, kind: str) -> str:
    if "recurrence" in scope:
        return "recurrence"
    if "first_block" in scope:
        return "first_block"
    if kind == "convolution" or "conv3x3" in scope or "conv_general_dilated" in scope:
        return "other_convolutions"
    return "rest"


def classify_kernel(kernel: Kernel, operations: Mapping[str, str | None]) -> tuple[str | None, bool]:
    """Returns the class of a kernel, None for control flow, and whether its operation is known; else its own name decides."""
    for name in (kernel.operation, kernel.name):
        if name in operations:
            return operations[name], True
    if re.search(r"pallas|_(forward|backward)_kernel", kernel.name):
        return "recurrence", False
    if re.search(r"conv|[fdw]prop|[dw]grad", kernel.name, re.I):
        return "other_convolutions", False
    return "rest", False


def read_kernels(profile) -> list[Kernel]:
    """Reads the kernels of all GPUs or TPUs from a profile, else the operations of the CPU's threads.

    Args:
      profile: a `jax.profiler.ProfileData`.

    Raises:
      ValueError: it holds none.
    """
    kernels: dict[str, list[Kernel]] = {"accelerator": [], "cpu": []}
    seen = []
    for plane in profile.planes:
        for line in plane.lines:
            seen.append(f"{plane.name} {line.name}")
            gpu = plane.name.startswith("/device:GPU") and line.name.startswith("Stream")
            tpu = plane.name.startswith("/device:TPU") and line.name == "XLA Ops"
            cpu = plane.name == "/host:CPU"
            for event in line.events if gpu or tpu or cpu else ():
                operation = str(dict(event.stats).get("hlo_op", ""))
                name = event.name.split(" = ")[0].lstrip("%")  # a TPU's events have the text of the operation for a name
                if gpu or tpu or (operation and not name.startswith("end: ")):
                    kernels["cpu" if cpu else "accelerator"].append(Kernel(name, operation, event.duration_ns))
    found = kernels["accelerator"] or kernels["cpu"]
    if not found:
        raise ValueError(f"the profile holds no kernels, only {', '.join(seen)[:200]}")
    return found
