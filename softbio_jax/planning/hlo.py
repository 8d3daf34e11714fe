"""A compiled program's text, read: computations, their instructions, and what shapes take up."""

import dataclasses
import math
import re

_COMPUTATION = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{$")
_ARRAY = re.compile(r"([a-z]\w*)\[([\d,<=]*)\](?:\{([^{}]*)\})?")
_BITS = re.compile(r"[a-z]+(\d+)")
_NAME = re.compile(r"%([\w.\-]+)")
_SPACE = re.compile(r"S\((\d+)\)")


@dataclasses.dataclass(frozen=True)
class Array:
    """One array: its bytes, without padding, and whether it lies in the chip's main memory."""

    nbytes: int
    in_memory: bool


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation.

    Args:
      name: what others call it.
      outputs: the arrays of its result, one for each leaf of a tuple.
      operation: such as dot, fusion, while.
      operands: names of its inputs.
      attributes: the operands in parentheses and what stands behind them.
      root: whether it is its computation's result.
    """

    name: str
    outputs: tuple[Array, ...]
    operation: str
    operands: tuple[str, ...]
    attributes: str
    root: bool

    @property
    def first(self) -> Array:
        """Its first result; nothing, where it has none."""
        return self.outputs[0] if self.outputs else Array(0, False)

    @property
    def parameter_number(self) -> int | None:
        """Which parameter of its computation it is, None where it is none."""
        return int(self.attributes[1:].partition(")")[0]) if self.operation == "parameter" else None

    def called(self, *keys: str) -> str | None:
        """Returns the computation named by the first of these attributes that is there."""
        for key in keys:
            if found := re.search(rf"\b{key}=%?([\w.\-]+)", self.attributes):
                return found[1]
        return None


Computation = dict[str, Instruction]


def parse(program: str) -> tuple[dict[str, Computation], str]:
    """Returns every computation by name, and the name of the one that is run.

    Args:
      program: as `jax.jit(f).lower(...).compile().as_text()` gives it.
    """
    computations: dict[str, Computation] = {}
    current: Computation | None = None
    entry = ""
    for line in program.splitlines():
        if line.startswith("}"):
            current = None
        elif current is not None:
            if instruction := _instruction(line.strip()):
                current[instruction.name] = instruction
        elif header := _COMPUTATION.match(line):
            current = computations.setdefault(header[2], {})
            entry = header[2] if header[1] else entry
    return computations, entry


def _instruction(line: str) -> Instruction | None:
    left, equals, right = line.removeprefix("ROOT ").partition(" = ")
    if not equals:
        return None
    end = _closing(right, 0) if right.startswith("(") else right.index(" ")
    operation, parenthesis, _ = right[end:].strip().partition("(")
    if not parenthesis:
        return None
    start = right.index("(", end)
    stop = _closing(right, start)
    return Instruction(
        name=left.strip().removeprefix("%"),
        outputs=tuple(map(_array, _ARRAY.finditer(right[:end]))),
        operation=operation,
        operands=tuple(_NAME.findall(right[start:stop])),
        attributes=right[start:],
        root=line.startswith("ROOT "),
    )


def _array(found: re.Match[str]) -> Array:
    kind, dimensions, layout = found.groups()
    bits = _BITS.match(kind)
    width = int(bits[1]) if bits else 8 * (kind == "pred")  # a token or a handle takes no room
    count = math.prod(int(size.lstrip("<=")) for size in dimensions.split(",") if size)
    space = _SPACE.search(layout or "")
    return Array(nbytes=count * width // 8, in_memory=space is None or space[1] == "0")


def _closing(text: str, start: int) -> int:
    """Returns the place behind the parenthesis that closes the one at start."""
    depth = 0
    for place in range(start, len(text)):
        depth += (text[place] == "(") - (text[place] == ")")
        if not depth:
            return place + 1
    return len(text)
