"""What a step's operations and bytes belong to: attention, products, adapters, ..., and lines of the code."""

import collections
import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from softbio_jax.models.flops import flops_by_scope
from softbio_jax.planning import collectives, hlo
from softbio_jax.planning.hlo import Computation, Executed, Instruction

_OP_NAME = re.compile(r'op_name="([^"]*)"')
_FRAME = re.compile(r"stack_frame_id=(\d+)")
_SOURCE = re.compile(r'source_file="([^"]*)" source_line=(\d+)')
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_ROW = re.compile(r'(\d+) (?:"(.*)"|\{(.*)\})$')
_ENTRY = re.compile(r"(\w+)=(\d+)")
_PACKAGE = "softbio_jax/"
_MOST_LINES = 40

# The first whose pattern is found in the path of modules and transformations.
_PARTS = {
    "optimizer": r"/optimizer/",
    "augmentation": r"/augment/",
    "teacher": r"/teacher/",
    "heads and loss": r"MultitaskModel\.classify|/heads/|[/(]loss[/)]",
    "adapters": r"\._adapted/|/tasks/",
    "products": r"/(qkv|q|kv|out|c_fc|c_proj|patch_embed)/|project\)?/",
    "attention": r"/attn/",
    # The scan over blocks keeps values for its backward pass in stacks.
    "kept values": r"/body/(jit\(dynamic_\w+\)|closed_call)?/?(dynamic_|broadcast|select|squeeze|add$|mul$)",
    "norms and elementwise": r"MultitaskModel|/ln_|/mlp/|encoder/",
}
_OTHER = "other"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Costs:
    """What a step costs one chip, by part and by line of the code.

    Args:
      traffic: bytes between a chip and its memory.
      sent: bytes that a chip sends to others.
      parts: part -> flops of matrix products over all chips, kernel_flops those of them in kernels, bytes
        of a chip, and the cycles that the compiler estimates for what it fused; 0 where it states none.
      lines: operation, line of the package and bytes of a chip, most bytes first.
    """

    traffic: int
    sent: int
    parts: dict[str, dict[str, float]]
    lines: list[dict[str, Any]]


NO_COSTS = Costs(traffic=0, sent=0, parts={}, lines=[])


def part_of(path: str) -> str:
    """Returns the part of a step that a path of modules and transformations belongs to."""
    marked = f"/{path}/" if not path.startswith("/") else f"{path}/"
    return next((part for part, pattern in _PARTS.items() if re.search(pattern, marked)), _OTHER)


def costs(program: str, jaxpr: Any) -> Costs:
    """Returns the costs of a compiled step.

    Args:
      program: its text, see `hlo.memory_bytes`.
      jaxpr: what was traced.
    """
    computations, entry = hlo.parse(program)
    devices, lines = collectives.devices_of(program), _Lines(program)
    parts: dict[str, dict[str, float]] = collections.defaultdict(
        lambda: {"flops": 0, "kernel_flops": 0, "bytes": 0, "cycles": 0}
    )
    for scope, flops in flops_by_scope(jaxpr).items():
        part = parts[part_of(scope)]
        part["flops"] += flops
        part["kernel_flops"] += flops if scope.endswith("pallas_call") else 0
    by_line: collections.Counter[tuple[str, str]] = collections.Counter()
    traffic = sent = 0
    for ran in hlo.executed(computations, entry):
        source = _source(ran, computations)
        traffic += ran.nbytes
        sent += collectives.sent_bytes(ran, computations, devices)
        cycles = _CYCLES.search(ran.item.attributes)
        name = _OP_NAME.search(source.attributes)
        part = parts[part_of(name[1]) if name else _OTHER]
        part["bytes"] += ran.nbytes
        part["cycles"] += ran.times * int(cycles[1]) if cycles else 0
        if ran.nbytes:
            by_line[_operation(ran.item, source), lines.of(source)] += ran.nbytes
    ordered = dict(sorted(parts.items(), key=lambda pair: -pair[1]["bytes"]))
    return Costs(
        traffic=traffic,
        sent=sent,
        parts=ordered,
        lines=[
            {"operation": operation, "line": line, "bytes": count}
            for (operation, line), count in by_line.most_common(_MOST_LINES)
        ],
    )


def _source(ran: Executed, computations: Mapping[str, Computation]) -> Instruction:
    """Returns the instruction that says what a fusion is for: its product, else the fusion itself."""
    if ran.item.operation != "fusion":
        return ran.item
    fused = computations[ran.item.called("calls")].values()
    products = (item for item in fused if item.operation in ("dot", "convolution", "fusion"))
    for item in products:
        found = _source(Executed(item, {}, 1, 0), computations)
        if found.operation in ("dot", "convolution"):
            return found
    return ran.item


def _operation(item: Instruction, source: Instruction) -> str:
    """Returns what an instruction does in JAX's words, such as dot_general, with "copy" for XLA's own."""
    if item.operation in ("copy", "copy-start", "slice-start"):
        return item.operation.removesuffix("-start")
    found = _OP_NAME.search(source.attributes)
    # XLA names what it adds itself by its own instruction, such as broadcast.7.
    return found[1].rpartition("/")[2].partition(".")[0].rstrip(")") if found else item.operation


class _Lines:
    """The lines of the package from which the instructions of a program come."""

    def __init__(self, program: str):
        self._tables: dict[str, dict[int, Any]] = {}
        current: dict[int, Any] | None = None
        for line in program.splitlines():
            if line in ("FileNames", "FunctionNames", "FileLocations", "StackFrames"):
                current = self._tables.setdefault(line, {})
            elif current is not None and (row := _ROW.match(line)):
                entries = _ENTRY.findall(row[3] or "")
                current[int(row[1])] = row[2] or {key: int(value) for key, value in entries}
            elif line.endswith("{"):  # the first computation
                break

    def of(self, item: Instruction) -> str:
        """Returns file:line of the innermost frame within the package, or "" if there is none."""
        if found := _SOURCE.search(item.attributes):  # compilers without tables
            return _place(found[1], int(found[2]))
        found = _FRAME.search(item.attributes)
        number = int(found[1]) if found else 0
        while frame := self._tables.get("StackFrames", {}).get(number):
            location = self._tables["FileLocations"][frame["file_location_id"]]
            if place := _place(self._tables["FileNames"][location["file_name_id"]], location["line"]):
                return place
            number = frame.get("parent_frame_id", 1) - 1  # 1: there is none
        return ""


def _place(file: str, line: int) -> str:
    return f"{file[file.rindex(_PACKAGE) :]}:{line}" if _PACKAGE in file else ""
