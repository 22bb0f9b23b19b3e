"""What a program that XLA compiled for a GPU does, read off its text: kernels, traffic, copies, the time expected.

Every instruction of the entry computation that is more than a name for something is launched, one after the other. It
reads its operands and writes its result. The text has a line for each:

    %sum = f32[768]{0} fusion(%gradient, %displacement), kind=kInput, calls=%fused, backend_config={"exec_time_us":2.9}
"""

import math
import re
from typing import NamedTuple

_COMPUTATION = re.compile(r"^(ENTRY )?%([\w.-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^  (?:ROOT )?%([\w.-]+) = (.*?) ([\w-]+)\((.*)$")
_BYTES = {"f64": 8, "s64": 8, "u64": 8, "c64": 8, "f32": 4, "s32": 4, "u32": 4}
_BYTES |= {"bf16": 2, "f16": 2, "s16": 2, "u16": 2, "s8": 1, "u8": 1, "pred": 1}
_ARRAY = re.compile(rf"\b({'|'.join(_BYTES)})\[([\d,]*)\]")
_NAMES = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all"}  # nothing is launched for them
_COLLECTIVE = re.compile(r"= (.*?) (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(?:-start)?\(")
_UNTOLD = {"while", "conditional", "async-start", "copy-start"}


class Instruction(NamedTuple):
    """A line of a computation."""

    name: str
    shape: str
    opcode: str
    operands: list[str]
    text: str


class Program(NamedTuple):
    """What a program launches, and what that costs."""

    kernels: int = 0  # copies among them
    traffic: int = 0  # bytes read and written
    copied: int = 0  # bytes of the copies, each once
    expected: float = 0.0  # microseconds, of all but copies, of which XLA expects nothing


def program(text: str) -> Program:
    """What the program of that text does."""
    computations, entry = parsed(text)
    return _program(computations, entry)


def parsed(text: str) -> tuple[dict[str, list[Instruction]], str]:
    """The instructions of every computation by its name, and the name of the one that is run."""
    computations: dict[str, list[Instruction]] = {}
    name = entry = ""
    for line in text.splitlines():
        if head := _COMPUTATION.match(line):
            name = head[2]
            entry = name if head[1] else entry
            computations[name] = []
        elif found := _INSTRUCTION.match(line):
            operands = re.findall(r"%([\w.-]+)", found[4].partition("), ")[0])
            computations[name].append(Instruction(found[1], found[2], found[3], operands, line))
    return computations, entry


def size(shape: str) -> int:
    """The bytes of an array, or of all arrays of a tuple."""
    return sum(_BYTES[dtype] * math.prod(int(n) for n in dims.split(",") if n) for dtype, dims in _ARRAY.findall(shape))


def collectives(text: str) -> dict[str, list[int]]:
    """The bytes of each collective of a program, by kind."""
    found: dict[str, list[int]] = {}
    for shape, kind in _COLLECTIVE.findall(text):
        found.setdefault(kind, []).append(size(shape))
    return found


def _program(computations: dict[str, list[Instruction]], name: str) -> Program:
    sizes = {line.name: size(line.shape) for line in computations[name]}
    parts = [_launched(line, sizes, computations) for line in computations[name] if line.opcode not in _NAMES]
    return Program(*map(sum, zip(*parts, strict=True)))


def _launched(line: Instruction, sizes: dict[str, int], computations: dict[str, list[Instruction]]) -> Program:
    if line.opcode in _UNTOLD:
        raise ValueError(f"%{line.name}: the text does not tell how often, or when, what a {line.opcode} runs is run.")
    if line.opcode == "call":
        return _program(computations, line.text.partition("to_apply=%")[2].partition(",")[0])
    time = re.search(r'"exec_time_us":([\d.e+-]+)', line.text)
    return Program(
        kernels=1,
        traffic=sizes[line.name] + sum(sizes[operand] for operand in line.operands),
        copied=sizes[line.name] if line.opcode == "copy" else 0,
        expected=float(time[1]) if time else 0.0,
    )
