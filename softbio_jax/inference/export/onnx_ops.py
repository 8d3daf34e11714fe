"""The JAX primitives of a vision tower as ONNX nodes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from softbio_jax.errors import UserError
from softbio_jax.inference.export.onnx import Graph
from softbio_jax.inference.export.program import GELU, Op, Operand

_SIMPLE = {
    "add": "Add",
    "sub": "Sub",
    "mul": "Mul",
    "div": "Div",
    "max": "Max",
    "min": "Min",
    "pow": "Pow",
    "neg": "Neg",
    "exp": "Exp",
    "log": "Log",
    "sqrt": "Sqrt",
    "tanh": "Tanh",
    "logistic": "Sigmoid",
    "sin": "Sin",
    "cos": "Cos",
    "erf": "Erf",
    GELU: "Gelu",
}
_REDUCTIONS = {"reduce_sum": "ReduceSum", "reduce_max": "ReduceMax", "reduce_min": "ReduceMin"}


def add(graph: Graph, op: Op) -> None:
    """Adds the nodes of an operation to a graph.

    Raises:
      UserError: a primitive that has no rule here.
    """
    if op.name in _SIMPLE:
        names = [graph.add(_SIMPLE[op.name], *map(graph.operand, op.inputs))]
    elif op.name in _REDUCTIONS:
        axes = graph.constant(np.array([int(axis) for axis in op.params["axes"]], np.int64))
        names = [graph.add(_REDUCTIONS[op.name], graph.operand(op.inputs[0]), axes, keepdims=0)]
    elif op.name in _RULES:
        found = _RULES[op.name](graph, op)
        names = found if isinstance(found, list) else [found]
    else:
        raise UserError(
            "an operation that the ONNX export does not know",
            where=op.name,
            expected=", ".join(sorted({*_SIMPLE, *_REDUCTIONS, *_RULES})),
            found=op.name,
            fix="export as stablehlo",
        )
    for value, name in zip(op.outputs, names, strict=True):
        graph.name(value, name)


def _square(graph: Graph, op: Op) -> str:
    x = graph.operand(op.inputs[0])
    return graph.add("Mul", x, x)


def _rsqrt(graph: Graph, op: Op) -> str:
    return graph.add("Reciprocal", graph.add("Sqrt", graph.operand(op.inputs[0])))


def _reshape(graph: Graph, op: Op) -> str:
    return graph.reshape(graph.operand(op.inputs[0]), op.outputs[0].shape)


def _broadcast(graph: Graph, op: Op) -> str:
    x, shape = op.inputs[0], op.outputs[0].shape
    places = dict(zip(op.params["broadcast_dimensions"], x.shape, strict=True))
    ranked = tuple(places.get(axis, 1) for axis in range(len(shape)))
    name = graph.operand(x)
    if ranked != tuple(x.shape):
        name = graph.reshape(name, ranked)
    return name if ranked == tuple(shape) else graph.expand(name, shape)


def _transpose(graph: Graph, op: Op) -> str:
    order = [int(axis) for axis in op.params["permutation"]]
    return _transposed(graph, graph.operand(op.inputs[0]), order)


def _concatenate(graph: Graph, op: Op) -> str:
    return graph.add("Concat", *map(graph.operand, op.inputs), axis=int(op.params["dimension"]))


def _stack(graph: Graph, op: Op) -> str:
    axis = int(op.params["axis"])
    place = graph.constant(np.array([axis], np.int64))
    rows = [graph.add("Unsqueeze", graph.operand(x), place) for x in op.inputs]
    return graph.add("Concat", *rows, axis=axis)


def _slice(graph: Graph, op: Op) -> str:
    x, params = op.inputs[0], op.params
    cut = [
        axis
        for axis, size in enumerate(x.shape)
        if (params["start_indices"][axis], params["limit_indices"][axis]) != (0, size)
    ]
    strides = params["strides"] or (1,) * len(x.shape)
    table = (params["start_indices"], params["limit_indices"], range(len(x.shape)), strides)
    rows = [graph.constant(np.array([row[axis] for axis in cut], np.int64)) for row in table]
    return graph.add("Slice", graph.operand(x), *rows)


def _split(graph: Graph, op: Op) -> list[str]:
    sizes = graph.constant(np.array([int(size) for size in op.params["sizes"]], np.int64))
    graph.add(
        "Split", graph.operand(op.inputs[0]), sizes, outputs=len(op.outputs), axis=int(op.params["axis"])
    )
    return graph.outputs_of_last()


def _gather(graph: Graph, op: Op) -> str:
    """x[..., i, ...] of a constant i, the only gather that a tower has."""
    x, start = op.inputs
    numbers, sizes = op.params["dimension_numbers"], op.params["slice_sizes"]
    axes = numbers.start_index_map
    whole = all(size == x.shape[a] for a, size in enumerate(sizes) if a not in axes)
    if len(axes) != 1 or axes != numbers.collapsed_slice_dims or not whole:
        raise NotImplementedError("a gather of more than one row")
    if not isinstance(start, np.ndarray) or start.size != 1:
        raise NotImplementedError("a gather of rows known only at run time")
    row = graph.constant(np.array(start.item(), np.int64))
    return graph.add("Gather", graph.operand(x), row, axis=int(axes[0]))


def _cast(graph: Graph, op: Op) -> str:
    to = graph.element_type(op.params["new_dtype"])
    return graph.add("Cast", graph.operand(op.inputs[0]), to=to)


def _dot(graph: Graph, op: Op) -> str:
    """MatMul over (batch..., free, summed) and (batch..., summed, free), axes of a kind joined."""
    left, right = op.inputs
    (left_sum, right_sum), (left_batch, right_batch) = op.params["dimension_numbers"]
    names = graph.operand(left), graph.operand(right)
    rank = len(left.shape)
    if not left_batch and (*left_sum, *right_sum) == (rank - 1, 0) and len(right.shape) == 2:
        return graph.add("MatMul", *names)
    free, free_too = _free(left, left_sum, left_batch), _free(right, right_sum, right_batch)
    a = _transposed(graph, names[0], [*left_batch, *free, *left_sum])
    b = _transposed(graph, names[1], [*right_batch, *right_sum, *free_too])
    single = len(free) == len(free_too) == len(left_sum) == 1
    if not single:
        rows = tuple(left.shape[axis] for axis in left_batch)
        summed = _product(left, left_sum)
        a = graph.reshape(a, (*rows, _product(left, free), summed))
        b = graph.reshape(b, (*rows, summed, _product(right, free_too)))
    product = graph.add("MatMul", a, b)
    return product if single else graph.reshape(product, op.outputs[0].shape)


def _free(operand: Operand, summed: Sequence[int], batch: Sequence[int]) -> list[int]:
    return [axis for axis in range(len(operand.shape)) if axis not in (*summed, *batch)]


def _product(operand: Operand, axes: Sequence[int]) -> Any:
    return math.prod(operand.shape[axis] for axis in axes)


def _transposed(graph: Graph, name: str, order: list[Any]) -> str:
    order = [int(axis) for axis in order]
    return name if order == sorted(order) else graph.add("Transpose", name, perm=order)


def _erfc(graph: Graph, op: Op) -> str:
    erf = graph.add("Erf", graph.operand(op.inputs[0]))
    return graph.add("Sub", graph.constant(np.array(1, op.outputs[0].dtype)), erf)


_RULES: dict[str, Callable[[Graph, Op], str | list[str]]] = {
    "square": _square,
    "rsqrt": _rsqrt,
    "reshape": _reshape,
    "squeeze": _reshape,
    "expand_dims": _reshape,
    "broadcast_in_dim": _broadcast,
    "transpose": _transpose,
    "concatenate": _concatenate,
    "stack": _stack,
    "slice": _slice,
    "split": _split,
    "gather": _gather,
    "convert_element_type": _cast,
    "dot_general": _dot,
    "erfc": _erfc,
}
