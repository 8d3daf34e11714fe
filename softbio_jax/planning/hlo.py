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


_TURNS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
# Names for what is there already.
_FREE = {
    "parameter",
    "constant",
    "get-tuple-element",
    "tuple",
    "bitcast",
    "after-all",
    "partition-id",
    "replica-id",
    "opt-barrier",
    "add-dependency",
    "domain",
}
_SLICES = ("slice", "dynamic-slice", "gather")
_FREE_CALLS = ('custom_call_target="AllocateBuffer"', 'custom_call_target="ConcatBitcast"')


def memory_bytes(program: str) -> int:
    """Returns the bytes that a program's instructions move between a chip and its main memory.

    Each instruction reads its operands and writes its results once; of what it slices or updates
    in place only that part counts, and what lies in the chip's own fast memory does not. A loop's
    body counts as often as it runs, which XLA's own cost analysis does not do. Tiles that are read
    again, padding and spills come on top: it is the least that this program can do with.

    Args:
      program: as `jax.jit(f).lower(...).compile().as_text()` gives it; one chip's, if partitioned.
    """
    computations, entry = parse(program)
    return _Traffic(computations).of(entry)


class _Traffic:
    def __init__(self, computations: dict[str, Computation]):
        self._computations = computations
        self._done: dict[str, int] = {}

    def of(self, name: str) -> int:
        """Returns the bytes that a computation moves each time it runs."""
        if name not in self._done:
            body = self._computations[name]
            self._done[name] = sum(self._moved(item, body) for item in body.values())
        return self._done[name]

    def _moved(self, item: Instruction, body: Computation) -> int:
        operation, outputs = item.operation, item.outputs
        if operation in _FREE or operation.endswith("-done"):
            return 0
        if operation == "while":
            return self._turns(item) * self.of(item.called("body") or "")
        if operation == "conditional":
            return max(map(self.of, _branches(item)))
        if operation in ("call", "async-start"):
            return self.of(item.called("to_apply", "calls") or "")
        if operation == "copy-start":  # its result names both ends, and a flag
            return sum(array.nbytes for array in outputs if array.in_memory)
        if operation == "custom-call" and any(free in item.attributes for free in _FREE_CALLS):
            return 0
        if operation.endswith("-start"):  # the source, the result, a flag
            operation, outputs = operation.removesuffix("-start"), outputs[1:2]
        inputs = [body[name].first for name in item.operands if name in body]
        if operation == "fusion":
            called = self._computations[item.called("calls") or ""]
            reads = sum(self._read(called, number) for number, array in enumerate(inputs) if array.in_memory)
            return reads + sum(self._written(called, outputs))
        if operation in _SLICES:
            source = inputs[0].in_memory
            return sum(array.nbytes * (source + array.in_memory) for array in outputs)
        if operation in ("dynamic-update-slice", "scatter"):
            update = inputs[1 if operation == "dynamic-update-slice" else -1]
            return update.nbytes * (update.in_memory + outputs[0].in_memory)
        return sum(array.nbytes for array in (*inputs, *outputs) if array.in_memory)

    def _turns(self, loop: Instruction) -> int:
        """Returns how often a loop runs: as noted, else up to the number its counter meets."""
        if noted := _TURNS.search(loop.attributes):
            return int(noted[1])
        condition = self._computations[loop.called("condition") or ""]
        root = _root(condition)
        for name in root.operands:
            if root.operation == "compare" and condition[name].operation == "constant":
                return int(condition[name].attributes[1:].partition(")")[0])
        return 1

    def _read(self, body: Computation, number: int) -> int:
        """Returns how many bytes of its parameter a fused computation looks at."""
        parameter = next(item for item in body.values() if item.parameter_number == number)
        return min(parameter.first.nbytes, self._used(body, parameter))

    def _used(self, body: Computation, source: Instruction) -> int:
        whole, total = source.first.nbytes, 0
        for user in body.values():
            if source.name not in user.operands:
                continue
            if user.operation == "bitcast":
                total += self._used(body, user)
            elif user.operation in _SLICES and user.operands[0] == source.name:
                total += user.first.nbytes
            elif user.operation == "fusion":
                called = self._computations[user.called("calls") or ""]
                total += sum(
                    self._read(called, number)
                    for number, name in enumerate(user.operands)
                    if name == source.name
                )
            elif user.operation != "dynamic-update-slice" or user.operands[0] != source.name:
                return whole
        return total

    def _written(self, body: Computation, outputs: tuple[Array, ...]) -> list[int]:
        """Returns the bytes that a fused computation writes of each of its results."""
        root = _root(body)
        roots = [body[name] for name in root.operands] if root.operation == "tuple" else [root]
        if len(roots) != len(outputs):  # a tuple from elsewhere
            return [array.nbytes for array in outputs if array.in_memory]
        return [
            self._changed(body, item) for item, array in zip(roots, outputs, strict=True) if array.in_memory
        ]

    def _changed(self, body: Computation, item: Instruction) -> int:
        while item.operation == "bitcast":
            item = body[item.operands[0]]
        if item.operation == "dynamic-update-slice":
            return body[item.operands[1]].first.nbytes
        if item.operation == "fusion" and len(item.outputs) == 1:
            called = self._computations[item.called("calls") or ""]
            return self._changed(called, _root(called))
        return item.first.nbytes


def _root(body: Computation) -> Instruction:
    return next(item for item in body.values() if item.root)


def _branches(item: Instruction) -> list[str]:
    listed = re.search(r"branch_computations=\{([^}]*)\}", item.attributes)
    if listed:
        return [name.strip().removeprefix("%") for name in listed[1].split(",")]
    return [item.called("true_computation") or "", item.called("false_computation") or ""]
