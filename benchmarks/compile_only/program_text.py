"""Counts kernels, bytes and sums over devices in the text of a compiled XLA program."""

import re
from collections.abc import Iterator
from typing import NamedTuple

BYTES = {
    "f64": 8,
    "s64": 8,
    "u64": 8,
    "f32": 4,
    "s32": 4,
    "u32": 4,
    "bf16": 2,
    "f16": 2,
    "s16": 2,
    "u16": 2,
    "pred": 1,
    "s8": 1,
    "u8": 1,
}
FREE = {
    "parameter",
    "get-tuple-element",
    "tuple",
    "bitcast",
    "constant",
    "after-all",
    "opt-barrier",
    "partition-id",
    "replica-id",
}
"""Operations that neither compute nor move anything."""
ENDS = {"copy-done", "slice-done", "all-reduce-done", "async-done", "custom-call-done"}
"""The second halves of operations that are counted where they start."""
_ARRAY = re.compile(rf"\b({'|'.join(BYTES)})\[([\d,]*)\](\{{[^}}]*\}})?")
_INSTRUCTION = re.compile(r"\s+(?:ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*)")
_COMPUTATION = re.compile(r"\n(ENTRY )?%?([\w.\-]+) \(.*?\n}", re.S)


class Instruction(NamedTuple):
    """One operation: its name, the bytes of its operands and results outside on-chip memory, and its line."""

    operation: str
    moved: int
    line: str


def count(text: str) -> dict[str, int]:
    """Counts what a program does.

    Returns:
      `kernels`: operations, with those of loops once per iteration.
      `bytes`, `loop_bytes`: operands and results outside on-chip memory (memory space 1 of TPUs), outside and inside of loops.
      `all_reduces`: sums over devices.
    """
    computations = {match[2]: match[0] for match in _COMPUTATION.finditer(text)}
    entry = next(match[0] for match in _COMPUTATION.finditer(text) if match[1])
    counts = {"kernels": 0, "bytes": 0, "loop_bytes": 0, "all_reduces": len(re.findall(r" all-reduce(?:-start)?\(", text))}
    _add(counts, entry, computations, trips=1, key="bytes")
    return counts


def _add(counts, computation, computations, *, trips, key):
    for operation, moved, line in _read_instructions(computation):
        if operation == "while":
            body = computations[_reference(line, "body")]
            known = re.search(r'known_trip_count":\{"n":"(\d+)"', line)
            _add(counts, body, computations, trips=trips * int(known[1] if known else 1), key="loop_bytes")
        elif operation == "call":
            _add(counts, computations[_reference(line, "to_apply")], computations, trips=trips, key=key)
        elif operation not in FREE | ENDS:
            counts["kernels"] += trips
            counts[key] += trips * moved


def _reference(line, attribute):
    return re.search(rf"{attribute}=%?([\w.\-]+)", line)[1]


def _read_instructions(computation) -> Iterator[Instruction]:
    results: dict[str, str] = {}
    for line in computation.split("\n"):
        if match := _INSTRUCTION.match(line):
            name, result, operation, rest = match.groups()
            results[name] = result
            operands = re.findall(r"%([\w.\-]+)", rest.split("), ")[0])
            moved = _size(result) + sum(_size(results.get(operand, "")) for operand in operands)
            if operation in ("copy-start", "slice-start"):  # the result repeats the operand
                moved = _size(result) // 2
            yield Instruction(operation, moved, line)


def _size(arrays: str) -> int:
    """The bytes of arrays outside on-chip memory."""
    total = 0
    for dtype, dimensions, layout in _ARRAY.findall(arrays):
        if "S(1)" not in layout:
            size = BYTES[dtype]
            for dimension in filter(None, dimensions.split(",")):
                size *= int(dimension)
            total += size
    return total
