"""A traced program as an ONNX graph: one rule per JAX primitive of an encoder with heads."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from softbio_jax.errors import UserError
from softbio_jax.inference.export.program import GELU, Op, Operand, Program, Shape, Value

if TYPE_CHECKING:
    import onnx

OPSET, IR = 20, 9  # the first operator set with Gelu, and the file version that came with it
BATCH = "batch"

# JAX primitives that are one ONNX operator.
_SIMPLE = {
    **{"add": "Add", "sub": "Sub", "mul": "Mul", "div": "Div", "max": "Max", "min": "Min", "pow": "Pow"},
    **{"neg": "Neg", "exp": "Exp", "log": "Log", "sqrt": "Sqrt", "tanh": "Tanh", "logistic": "Sigmoid"},
    **{"sin": "Sin", "cos": "Cos", "erf": "Erf", GELU: "Gelu", "abs": "Abs", "sign": "Sign"},
    **{"eq": "Equal", "lt": "Less", "le": "LessOrEqual", "gt": "Greater", "ge": "GreaterOrEqual"},
    **{"and": "And", "or": "Or", "not": "Not"},  # of truth values
}
_REDUCTIONS = {"reduce_sum": "ReduceSum", "reduce_max": "ReduceMax", "reduce_min": "ReduceMin"}


def model(
    program: Program, *, inputs: Sequence[str], outputs: Sequence[str], metadata: dict[str, str]
) -> onnx.ModelProto:
    """Returns the ONNX model of a program, with these names of its inputs and outputs.

    Raises:
      UserError: a primitive without a rule.
    """
    graph = Graph(program, names=inputs)
    for op in program.ops:
        _add(graph, op)
    return graph.model(dict(zip(outputs, program.outputs, strict=True)), metadata=metadata)


class Graph:
    """Nodes and constants of an ONNX graph, and the ONNX names of a program's values."""

    def __init__(self, program: Program, *, names: Sequence[str]):
        from onnx import helper, numpy_helper

        self._make, self._tensor = helper, numpy_helper.from_array
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.names: dict[Value, str] = dict(zip(program.inputs, names, strict=True))
        # Constants by contents or id, with the array itself: an id is unique only while it exists.
        self._shared: dict[tuple[Any, ...], tuple[str, np.ndarray]] = {}
        self._count = itertools.count()
        self._inputs = program.inputs
        self._rows = ""

    def operand(self, operand: Operand) -> str:
        """Returns the name of a value or constant."""
        return self.names[operand] if isinstance(operand, Value) else self.constant(operand)

    def constant(self, array: np.ndarray) -> str:
        """Returns the name of an initializer with this array, which is stored once."""
        array = np.asarray(array)
        key = (array.shape, array.dtype.str, array.tobytes() if array.size < 64 else id(array))
        if key not in self._shared:
            name = f"c{next(self._count)}"
            self.constants.append(self._tensor(array, name))
            self._shared[key] = name, array
        return self._shared[key][0]

    def integers(self, values: Iterable[Any]) -> str:
        """Returns the name of a constant vector of int64."""
        return self.constant(np.array([int(value) for value in values], np.int64))

    def add(self, kind: str, *inputs: str, outputs: int = 1, **attributes: Any) -> str:
        """Adds a node and returns the name of its first output."""
        names = [f"v{next(self._count)}" for _ in range(outputs)]
        self.nodes.append(self._make.make_node(kind, list(inputs), names, **attributes))
        return names[0]

    def reshape(self, name: str, shape: Shape) -> str:
        """Adds a reshape; one axis may be symbolic."""
        sizes = [size if isinstance(size, int) else -1 for size in shape]
        if sizes.count(-1) > 1:
            raise NotImplementedError(f"a shape with two free axes: {shape}")
        return self.add("Reshape", name, self.integers(sizes))

    def expand(self, name: str, shape: Shape) -> str:
        """Adds a broadcast to a shape whose symbolic sizes are multiples of the batch."""
        sizes = [self.integers([size]) if isinstance(size, int) else self._free(size) for size in shape]
        joined = self.add("Concat", *sizes, axis=0) if len(sizes) > 1 else sizes[0]
        return self.add("Expand", name, joined)

    def transpose(self, name: str, order: Iterable[Any]) -> str:
        """Adds a transpose, unless it would change nothing."""
        order = [int(axis) for axis in order]
        return name if order == sorted(order) else self.add("Transpose", name, perm=order)

    def _free(self, size: Any) -> str:
        """Returns the name of a symbolic size, a multiple of the batch size known at run time."""
        if not self._rows:
            self._rows = self.add("Shape", self.operand(self._inputs[0]), start=0, end=1)
        times = int(size // self._inputs[0].shape[0])
        return self._rows if times == 1 else self.add("Mul", self._rows, self.integers([times]))

    def model(self, outputs: Mapping[str, Value], *, metadata: dict[str, str]) -> onnx.ModelProto:
        """Returns the finished model with these named outputs."""
        make = self._make
        for name, value in outputs.items():
            self.nodes.append(make.make_node("Identity", [self.operand(value)], [name]))
        inputs = [self._info(self.operand(x), x) for x in self._inputs]
        infos = [self._info(name, value) for name, value in outputs.items()]
        graph = make.make_graph(self.nodes, "softbio_jax", inputs, infos, self.constants)
        operators = [make.make_opsetid("", OPSET)]
        model = make.make_model(graph, opset_imports=operators, ir_version=IR, producer_name="softbio_jax")
        make.set_model_props(model, metadata)
        return model

    def element_type(self, dtype: Any) -> int:
        """Returns ONNX's number of a type."""
        return int(self._make.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def _info(self, name: str, value: Value) -> onnx.ValueInfoProto:
        shape = [size if isinstance(size, int) else BATCH for size in value.shape]
        return self._make.make_tensor_value_info(name, self.element_type(value.dtype), shape)


def _add(graph: Graph, op: Op) -> None:
    """Adds the nodes of an operation."""
    what, fix = "no ONNX rule for an operation", "export as stablehlo"
    if op.name not in _RULES:
        raise UserError(what, where=op.name, expected=", ".join(sorted(_RULES)), found=op.name, fix=fix)
    try:
        found = _RULES[op.name](graph, op)
    except NotImplementedError as error:
        raise UserError(what, where=op.name, found=str(error), fix=fix) from error
    names = found if isinstance(found, list) else [found]
    graph.names |= dict(zip(op.outputs, names, strict=True))


def _simple(kind: str, graph: Graph, op: Op) -> str:
    return graph.add(kind, *map(graph.operand, op.inputs))


def _reduction(kind: str, graph: Graph, op: Op) -> str:
    return graph.add(kind, graph.operand(op.inputs[0]), graph.integers(op.params["axes"]), keepdims=0)


def _square(graph: Graph, op: Op) -> str:
    x = graph.operand(op.inputs[0])
    return graph.add("Mul", x, x)


def _rsqrt(graph: Graph, op: Op) -> str:
    return graph.add("Reciprocal", _simple("Sqrt", graph, op))


def _erfc(graph: Graph, op: Op) -> str:
    return graph.add("Sub", graph.constant(np.array(1, op.outputs[0].dtype)), _simple("Erf", graph, op))


def _log1p(graph: Graph, op: Op) -> str:
    x, one = graph.operand(op.inputs[0]), graph.constant(np.array(1, op.outputs[0].dtype))
    return graph.add("Log", graph.add("Add", x, one))


def _not_equal(graph: Graph, op: Op) -> str:
    return graph.add("Not", _simple("Equal", graph, op))


def _is_finite(graph: Graph, op: Op) -> str:
    odd = graph.add("Or", _simple("IsInf", graph, op), _simple("IsNaN", graph, op))
    return graph.add("Not", odd)


def _select(graph: Graph, op: Op) -> str:
    which, *cases = op.inputs
    if len(cases) != 2 or which.dtype != np.bool_:
        raise NotImplementedError(f"a choice of {len(cases)} by {which.dtype}")
    return graph.add("Where", graph.operand(which), *map(graph.operand, reversed(cases)))


def _cumsum(graph: Graph, op: Op) -> str:
    axis = graph.constant(np.array(op.params["axis"], np.int64))
    return graph.add("CumSum", graph.operand(op.inputs[0]), axis, reverse=int(op.params["reverse"]))


def _pad(graph: Graph, op: Op) -> str:
    lows, highs, between = zip(*op.params["padding_config"], strict=True)
    if any(between):
        raise NotImplementedError("padding between elements")
    x, value = map(graph.operand, op.inputs)
    return graph.add("Pad", x, graph.integers((*lows, *highs)), value)


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
    return graph.transpose(graph.operand(op.inputs[0]), op.params["permutation"])


def _concatenate(graph: Graph, op: Op) -> str:
    return graph.add("Concat", *map(graph.operand, op.inputs), axis=int(op.params["dimension"]))


def _stack(graph: Graph, op: Op) -> str:
    axis = int(op.params["axis"])
    rows = [graph.add("Unsqueeze", graph.operand(x), graph.integers([axis])) for x in op.inputs]
    return graph.add("Concat", *rows, axis=axis)


def _slice(graph: Graph, op: Op) -> str:
    x, starts, limits = op.inputs[0], op.params["start_indices"], op.params["limit_indices"]
    cut = [axis for axis, size in enumerate(x.shape) if (starts[axis], limits[axis]) != (0, size)]
    strides = op.params["strides"] or (1,) * len(x.shape)
    table = (starts, limits, range(len(x.shape)), strides)
    rows = [graph.integers(row[axis] for axis in cut) for row in table]
    return graph.add("Slice", graph.operand(x), *rows)


def _rev(graph: Graph, op: Op) -> str:
    axes = op.params["dimensions"]
    # From the last to the first: a limit before the start is any that no axis reaches.
    table = ([-1] * len(axes), [np.iinfo(np.int64).min] * len(axes), axes, [-1] * len(axes))
    return graph.add("Slice", graph.operand(op.inputs[0]), *map(graph.integers, table))


def _split(graph: Graph, op: Op) -> list[str]:
    x, sizes = graph.operand(op.inputs[0]), graph.integers(op.params["sizes"])
    graph.add("Split", x, sizes, outputs=len(op.outputs), axis=int(op.params["axis"]))
    return list(graph.nodes[-1].output)


def _gather(graph: Graph, op: Op) -> str:
    """x[..., i:j, ..., k, ...] with constants, the only gathers that occur in these models."""
    x, start = op.inputs
    numbers, sizes = op.params["dimension_numbers"], op.params["slice_sizes"]
    axes, dropped = numbers.start_index_map, numbers.collapsed_slice_dims
    entire = all(size == x.shape[axis] for axis, size in enumerate(sizes) if axis not in axes)
    if not isinstance(start, np.ndarray) or start.shape != (len(axes),) or not entire:
        raise NotImplementedError("rows known only at run time, or several at once")
    ends = [first + sizes[axis] for first, axis in zip(start, axes, strict=True)]
    if min(start) < 0 or any(end > x.shape[axis] for end, axis in zip(ends, axes, strict=True)):
        raise NotImplementedError("rows past the end")
    name = graph.add("Slice", graph.operand(x), *map(graph.integers, (start, ends, axes)))
    return graph.add("Squeeze", name, graph.integers(dropped)) if dropped else name


def _cast(graph: Graph, op: Op) -> str:
    return graph.add("Cast", graph.operand(op.inputs[0]), to=graph.element_type(op.params["new_dtype"]))


def _dot(graph: Graph, op: Op) -> str:
    """MatMul of (batch..., free, summed) and (batch..., summed, free), axes of the same kind merged."""
    left, right = op.inputs
    (left_sum, right_sum), (left_batch, right_batch) = op.params["dimension_numbers"]
    a, b = graph.operand(left), graph.operand(right)
    if not left_batch and (*left_sum, *right_sum) == (len(left.shape) - 1, 0) and len(right.shape) == 2:
        return graph.add("MatMul", a, b)
    free = [axis for axis in range(len(left.shape)) if axis not in (*left_sum, *left_batch)]
    free_too = [axis for axis in range(len(right.shape)) if axis not in (*right_sum, *right_batch)]
    a = graph.transpose(a, (*left_batch, *free, *left_sum))
    b = graph.transpose(b, (*right_batch, *right_sum, *free_too))
    if len(free) == len(free_too) == len(left_sum) == 1:
        return graph.add("MatMul", a, b)
    rows = tuple(left.shape[axis] for axis in left_batch)
    summed = math.prod(left.shape[axis] for axis in left_sum)
    a = graph.reshape(a, (*rows, math.prod(left.shape[axis] for axis in free), summed))
    b = graph.reshape(b, (*rows, summed, math.prod(right.shape[axis] for axis in free_too)))
    return graph.reshape(graph.add("MatMul", a, b), op.outputs[0].shape)


_RULES: dict[str, Callable[[Graph, Op], str | list[str]]] = {
    **{name: functools.partial(_simple, kind) for name, kind in _SIMPLE.items()},
    **{name: functools.partial(_reduction, kind) for name, kind in _REDUCTIONS.items()},
    **dict.fromkeys(("reshape", "squeeze", "expand_dims"), _reshape),
    **{"square": _square, "rsqrt": _rsqrt, "erfc": _erfc, "convert_element_type": _cast},
    **{"broadcast_in_dim": _broadcast, "transpose": _transpose, "concatenate": _concatenate, "stack": _stack},
    **{"slice": _slice, "rev": _rev, "split": _split, "gather": _gather, "dot_general": _dot, "pad": _pad},
    **{"log1p": _log1p, "ne": _not_equal, "is_finite": _is_finite, "select_n": _select, "cumsum": _cumsum},
}
