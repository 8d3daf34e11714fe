"""A forward pass as a flat list of operations: what converters to other formats read."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Shape = tuple[Any, ...]  # sizes; symbolic ones where the batch is polymorphic
GELU = "gelu"


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Value:
    """A tensor that is known only when the program runs."""

    shape: Shape
    dtype: np.dtype


Operand = Value | np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Op:
    """A JAX primitive (or `gelu`, without one) applied to values and constants."""

    name: str
    inputs: Sequence[Operand]
    outputs: Sequence[Value]
    params: Mapping[str, Any]
    primitive: Any = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Program:
    """Operations in an order in which they can run."""

    inputs: Sequence[Value]
    outputs: Sequence[Value]
    ops: Sequence[Op]


def needed(ops: Sequence[Op], outputs: Sequence[Value]) -> list[Op]:
    """Drops the operations that no output depends on."""
    wanted = set(outputs)
    kept = []
    for op in reversed(ops):
        if any(out in wanted for out in op.outputs):
            kept.append(op)
            wanted |= {value for value in op.inputs if isinstance(value, Value)}
    return kept[::-1]
