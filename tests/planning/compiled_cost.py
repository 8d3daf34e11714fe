"""Matrix-product operations of a compiled program, its loops multiplied out.

XLA's own `cost_analysis` counts a loop's body once, however often it runs.
"""

import math
import re
from collections.abc import Iterator, Sequence

_COMPUTATION = re.compile(r"(?:ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")
_INSTRUCTION = re.compile(r"\s*(?:ROOT )?%?([\w.\-]+) = (.+?) ([\w\-]+)\((.*)$")
_SHAPE = re.compile(r"\w+\[([\d,]*)\]")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_CALLED = re.compile(r"(?:calls|body|to_apply)=%?([\w.\-]+)")
_CONTRACTED = re.compile(r"lhs_contracting_dims=\{([\d,]*)\}")


def matmul_flops(program: str) -> int:
    """Returns the operations of all matrix products, two a multiply-add.

    Args:
      program: a compiled program's text, as `jax.jit(f).lower(...).compile().as_text()` gives it
        on a CPU, where matrix products stay `dot` instructions.

    Raises:
      ValueError: a loop whose number of turns the compiler did not note.
    """
    computations = _computations(program)
    done: dict[str, int] = {}

    def cost(name: str) -> int:
        if name not in done:
            done[name] = sum(_instructions(computations[name]))
        return done[name]

    def _instructions(lines: Sequence[str]) -> Iterator[int]:
        shapes: dict[str, tuple[int, ...]] = {}
        for line in lines:
            if not (match := _INSTRUCTION.match(line)):
                continue
            name, result, operation, rest = match.groups()
            shapes[name] = _dimensions(result)
            if operation == "dot":
                yield 2 * math.prod(shapes[name]) * _contracted(rest, shapes)
            elif called := _CALLED.search(rest):
                yield _turns(operation, rest) * cost(called[1])

    entry = next(name for name, lines in computations.items() if lines[0].startswith("ENTRY"))
    return cost(entry)


def _computations(program: str) -> dict[str, list[str]]:
    computations: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in program.splitlines():
        if match := _COMPUTATION.match(line):
            lines = computations.setdefault(match[1], [line])
        elif line.startswith("}"):
            lines = []
        else:
            lines.append(line)
    return computations


def _dimensions(shape: str) -> tuple[int, ...]:
    match = _SHAPE.match(shape)
    return tuple(int(size) for size in match[1].split(",") if size) if match else ()


def _contracted(rest: str, shapes: dict[str, tuple[int, ...]]) -> int:
    """Returns how many products each output of a dot sums."""
    operand = re.match(r"(?:\w+\[[\d,]*\](?:\{[^}]*\})? )?%?([\w.\-]+)", rest)
    axes = _CONTRACTED.search(rest)
    if operand is None or axes is None:
        return 1
    return math.prod(shapes[operand[1]][int(axis)] for axis in axes[1].split(",") if axis)


def _turns(operation: str, rest: str) -> int:
    if operation != "while":
        return 1
    if not (trips := _TRIPS.search(rest)):
        raise ValueError("a loop without a known number of turns")
    return int(trips[1])
