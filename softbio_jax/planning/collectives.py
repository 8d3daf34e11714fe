"""Bytes that a chip sends to others in the collectives of a compiled program."""

import math
import re

from softbio_jax.planning.hlo import Computation, Executed, Instruction

_LISTED = re.compile(r"replica_groups=\{\{([\d,]+)\}")
_IOTA = re.compile(r"replica_groups=\[\d+,(\d+)\]<=")
_MESH = re.compile(r"replica_groups=mesh\[([^\]]*)\] *\{([^}]*)\}")
_AXIS = re.compile(r"'(\w+)'=(\d+)")
_PARTITIONS = re.compile(r"num_partitions=(\d+)")
_REPLICAS = re.compile(r"replica_count=(\d+)")


def devices_of(program: str) -> int:
    """Returns how many devices run a program, from the first line of its text."""
    first = program.partition("\n")[0]
    counts = (pattern.search(first) for pattern in (_PARTITIONS, _REPLICAS))
    return math.prod(int(count[1]) for count in counts if count)


def sent_bytes(ran: Executed, computations: dict[str, Computation], devices: int) -> int:
    """Returns how many bytes a chip sends at least in an instruction, all times together.

    Of b bytes that a chip puts in, with n chips in a group: 2 (n - 1) / n b for an all-reduce, as a
    reduce-scatter and an all-gather, (n - 1) b for an all-gather, (n - 1) / n b for a reduce-scatter
    and an all-to-all, b for a permutation. Other instructions send nothing.

    Args:
      ran: the instruction.
      computations: of its program.
      devices: that run it.

    Source: Chan et al. 2007, Collective communication: theory, practice, and experience, table II.
    """
    sent = _sent(ran.item, ran.body, devices)
    if ran.item.operation == "fusion":  # a TPU's reduce-scatter is one
        called = computations[ran.item.called("calls")]
        sent += sum(_sent(item, called, devices) for item in called.values())
    return round(ran.times * sent)


def _sent(item: Instruction, body: Computation, devices: int) -> float:
    given = sum(body[name].first.nbytes for name in item.operands if name in body)
    others = 1 - 1 / _group(item.attributes, devices)
    match item.operation.removesuffix("-start"):
        case "all-reduce":
            return 2 * others * given
        case "all-gather":
            return (_group(item.attributes, devices) - 1) * given
        case "reduce-scatter" | "all-to-all" | "ragged-all-to-all":
            return others * given
        case "collective-permute":
            return given
    return 0.0


def _group(attributes: str, devices: int) -> int:
    """Returns how many devices take part in one group of a collective."""
    if found := _LISTED.search(attributes):
        return len(found[1].split(","))
    if found := _IOTA.search(attributes):
        return int(found[1])
    if found := _MESH.search(attributes):
        sizes = {name: int(size) for name, size in _AXIS.findall(found[1])}
        return math.prod(sizes.get(name.strip(" '"), 1) for name in found[2].split(","))
    return max(devices, 1)  # no groups: all of them
