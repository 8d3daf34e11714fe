"""Main-memory traffic of a compiled XLA program, read from its HLO text.

XLA's own cost analysis counts the body of a loop once. The blocks of an encoder are one scanned loop, so
the text is read here and every body is multiplied by its number of iterations.
"""

import dataclasses
import math
import re
from collections.abc import Iterator
from typing import NamedTuple

_COMPUTATION = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{$")
_ARRAY = re.compile(r"([a-z]\w*)\[([\d,<=]*)\](?:\{([^{}]*)\})?")
_BITS = re.compile(r"[a-z]+(\d+)")
_NAME = re.compile(r"%([\w.\-]+)")
_SPACE = re.compile(r"S\((\d+)\)")
_TRIP_COUNT = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")

# Instructions that only name an existing buffer or a part of it: no byte moves.
_FREE = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "domain"),
    *("partition-id", "replica-id", "opt-barrier", "add-dependency"),
}
_FREE_CALLS = ('custom_call_target="AllocateBuffer"', 'custom_call_target="ConcatBitcast"')
# Of a fusion within a fusion: its result is its operand, such as in another order of tiles.
_ALIASED = "output_to_operand_aliasing={{}: (0, {})}"
_SLICES = ("slice", "dynamic-slice", "gather")


@dataclasses.dataclass(frozen=True)
class Array:
    """Bytes of an array without padding, and whether it lies in the chip's main memory."""

    nbytes: int
    in_memory: bool


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation.

    Args:
      outputs: the leaves of its result.
      operation: such as dot, fusion, while.
      operands: names of its inputs.
      attributes: the text from the operands' parenthesis to the end of the line.
      root: whether it is the result of its computation.
    """

    name: str
    outputs: tuple[Array, ...]
    operation: str
    operands: tuple[str, ...]
    attributes: str
    root: bool

    @property
    def first(self) -> Array:
        """Its first result; an empty array if it has none."""
        return self.outputs[0] if self.outputs else Array(0, False)

    @property
    def argument(self) -> str:
        """The text in its parentheses: the index of a parameter, the value of a constant."""
        return self.attributes[1:].partition(")")[0]

    @property
    def parameter_number(self) -> int | None:
        """Index among the parameters of its computation; None if it is not a parameter."""
        return int(self.argument) if self.operation == "parameter" else None

    def called(self, *keys: str) -> str:
        """Returns the computation named by the first of these attributes that is set, or ""."""
        found = (re.search(rf"\b{key}=%?([\w.\-]+)", self.attributes) for key in keys)
        return next((match[1] for match in found if match), "")

    def branches(self) -> list[str]:
        """Returns the computations that a conditional chooses from."""
        if listed := _BRANCHES.search(self.attributes):
            return [name.strip().removeprefix("%") for name in listed[1].split(",")]
        return [self.called("true_computation"), self.called("false_computation")]


Computation = dict[str, Instruction]


def parse(program: str) -> tuple[dict[str, Computation], str]:
    """Returns every computation by name, and the name of the entry computation."""
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
    return Instruction(
        name=left.strip().removeprefix("%"),
        outputs=tuple(map(_array, _ARRAY.finditer(right[:end]))),
        operation=operation,
        operands=tuple(_NAME.findall(right[start : _closing(right, start)])),
        attributes=right[start:],
        root=line.startswith("ROOT "),
    )


def _array(found: re.Match[str]) -> Array:
    kind, dimensions, layout = found.groups()
    bits = _BITS.match(kind)
    width = int(bits[1]) if bits else 8 * (kind == "pred")  # a token or a handle has no bytes
    count = math.prod(int(size.lstrip("<=")) for size in dimensions.split(",") if size)
    # Memory space 0, the default, is main memory (HBM). S(1) is a TPU's VMEM and S(2) its scalar
    # memory: both are on the chip.
    space = _SPACE.search(layout or "")
    return Array(nbytes=count * width // 8, in_memory=space is None or space[1] == "0")


def _closing(text: str, start: int) -> int:
    """Returns the position after the parenthesis that closes the one at `start`."""
    depth = 0
    for place in range(start, len(text)):
        depth += (text[place] == "(") - (text[place] == ")")
        if not depth:
            return place + 1
    return len(text)


def memory_bytes(program: str) -> int:
    """Returns the bytes that a program moves between a chip and its main memory, a lower bound.

    Each instruction reads its operands and writes its results once. Of an array that is sliced or
    updated in place only that part counts; arrays in on-chip memory do not count. The body of a loop
    counts once per iteration. Repeated reads of tiles, padding and spills are not included.

    Args:
      program: the output of `jax.jit(f).lower(...).compile().as_text()`, of one chip if partitioned.
    """
    computations, entry = parse(program)
    return sum(ran.nbytes for ran in executed(computations, entry))


class Executed(NamedTuple):
    """An instruction of a program and what it costs in one run of it.

    Args:
      item: the instruction.
      body: its computation.
      times: how often it runs: the iterations of the loops around it.
      nbytes: between the chip and its main memory, all times together.
    """

    item: Instruction
    body: Computation
    times: int
    nbytes: int


def executed(computations: dict[str, Computation], entry: str) -> Iterator[Executed]:
    """Yields the instructions that a parsed program executes, see `memory_bytes`; of branches the dearest."""
    return _Traffic(computations).of(entry, 1)


class _Traffic:
    """Bytes moved by the instructions of a program."""

    def __init__(self, computations: dict[str, Computation]):
        self._computations = computations

    def of(self, name: str, times: int) -> Iterator[Executed]:
        """Yields the instructions of a computation that runs so many times."""
        body = self._computations[name]
        for item in body.values():
            if item.operation == "while":
                yield from self.of(item.called("body"), times * self._trip_count(item))
            elif item.operation == "conditional":
                branches = [list(self.of(branch, times)) for branch in item.branches()]
                yield from max(branches, key=lambda branch: sum(ran.nbytes for ran in branch))
            elif item.operation in ("call", "async-start"):
                yield from self.of(item.called("to_apply", "calls"), times)
            else:
                yield Executed(item, body, times, times * self._moved(item, body))

    def _moved(self, item: Instruction, body: Computation) -> int:
        operation, outputs = item.operation, item.outputs
        # The second half of an asynchronous pair: the transfer was counted at its start.
        if operation in _FREE or operation.endswith("-done"):
            return 0
        if operation == "copy-start":  # its result lists both ends and a flag: one read, one write
            return sum(array.nbytes for array in outputs if array.in_memory)
        if operation == "custom-call" and any(free in item.attributes for free in _FREE_CALLS):
            return 0
        if operation.endswith("-start"):  # the result lists source, destination and a flag
            operation, outputs = operation.removesuffix("-start"), outputs[1:2]
        operands = item.operands
        if operation == "custom-call":
            # A kernel that is given an array several times reads a part of it each time, as attention does
            # the q, k and v of one array.
            operands = tuple(dict.fromkeys(operands))
        inputs = [body[name].first for name in operands if name in body]
        if operation == "fusion":
            # Values between the fused instructions stay on the chip. A fusion moves what it reads of its
            # parameters and what it writes of its results, and each may be a slice of a larger array: in
            # a scan over blocks, a fusion reads one block of the stacked weights and writes one row of the
            # stacked outputs.
            called = self._computations[item.called("calls")]
            reads = sum(self._read(called, number) for number, array in enumerate(inputs) if array.in_memory)
            return reads + self._written(called, outputs)
        if operation in _SLICES:
            # As many bytes are read from the source as the result has, not the entire source.
            source = inputs[0].in_memory
            return sum(array.nbytes * (source + array.in_memory) for array in outputs)
        if operation in ("dynamic-update-slice", "scatter"):
            # XLA updates the buffer in place: the update is read and written, the rest is not touched.
            update = inputs[1 if operation == "dynamic-update-slice" else -1]
            return update.nbytes * (update.in_memory + outputs[0].in_memory)
        return sum(array.nbytes for array in (*inputs, *outputs) if array.in_memory)

    def _trip_count(self, loop: Instruction) -> int:
        """Returns the iterations of a loop: XLA's annotation, else the constant in its condition."""
        if noted := _TRIP_COUNT.search(loop.attributes):
            return int(noted[1])
        # Not every compiler annotates. `lax.scan` counts from 0 by 1 up to a constant.
        condition = self._computations[loop.called("condition")]
        root = _root(condition)
        for name in root.operands:
            if root.operation == "compare" and condition[name].operation == "constant":
                return int(condition[name].argument)
        return 1

    def _read(self, body: Computation, number: int) -> int:
        """Returns how many bytes of its parameter `number` a fused computation reads."""
        parameter = next(item for item in body.values() if item.parameter_number == number)
        return min(parameter.first.nbytes, self._used(body, parameter))

    def _used(self, body: Computation, source: Instruction) -> int:
        """Sums what the users of a value read: slices if all of them slice it, else the entire value."""
        total = 0
        for user in body.values():
            if source.name not in user.operands:
                continue
            if user.operation == "bitcast" or _ALIASED in user.attributes:  # another name of the same bytes
                total += self._used(body, user)
            elif user.operation in _SLICES and user.operands[0] == source.name:
                total += user.first.nbytes
            elif user.operation == "fusion":
                called = self._computations[user.called("calls")]
                positions = [i for i, name in enumerate(user.operands) if name == source.name]
                total += sum(self._read(called, number) for number in positions)
            elif user.operation != "dynamic-update-slice" or user.operands[0] != source.name:
                return source.first.nbytes
            # The buffer of a dynamic-update-slice is updated in place and not read.
        return total

    def _written(self, body: Computation, outputs: tuple[Array, ...]) -> int:
        """Returns the bytes that a fused computation writes to main memory."""
        root = _root(body)
        roots = [body[name] for name in root.operands] if root.operation == "tuple" else [root]
        if len(roots) != len(outputs):  # a tuple that is not built here, so its parts are not known
            return sum(array.nbytes for array in outputs if array.in_memory)
        pairs = zip(roots, outputs, strict=True)
        return sum(self._changed(body, item) for item, array in pairs if array.in_memory)

    def _changed(self, body: Computation, item: Instruction) -> int:
        """Returns the bytes that a result is written with: only the update of an in-place update."""
        while item.operation == "bitcast":
            item = body[item.operands[0]]
        if item.operation == "dynamic-update-slice":
            return body[item.operands[1]].first.nbytes
        if item.operation == "fusion" and len(item.outputs) == 1:
            called = self._computations[item.called("calls")]
            return self._changed(called, _root(called))
        return item.first.nbytes


def _root(body: Computation) -> Instruction:
    return next(item for item in body.values() if item.root)
