"""A forward pass as a flat list of operations, which converters to other formats read.

`trace` reads the jaxpr of a function. It inlines nested calls, unrolls scans, evaluates what depends on
constants only, and fuses two patterns into one operation each (`_fuse`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend import core

GELU, PRODUCT = "gelu", "dot_general"
# "name" marks what a remat policy saves.
_IDENTITIES = ("copy", "name", "stop_gradient", "optimization_barrier")

Shape = tuple[Any, ...]  # sizes, some of them symbolic if the batch size is


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Value:
    """A tensor that is not known before the program runs."""

    shape: Shape
    dtype: np.dtype


Operand = Value | np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Op:
    """A JAX primitive (or `gelu`, without one) applied to values and constants."""

    name: str
    inputs: Sequence[Operand]
    outputs: Sequence[Value]
    params: Mapping[str, Any]
    primitive: Any = None


Form = Callable[[Op, list[Any]], list[Any]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Program:
    """Operations in an order in which they can run."""

    inputs: Sequence[Value]
    outputs: Sequence[Value]
    ops: Sequence[Op]


def trace(function: Callable[[Any], Sequence[Any]], *arguments: jax.ShapeDtypeStruct) -> Program:
    """Returns the program of a pure function; arrays in its closure become constants.

    The arguments may have symbolic shapes from `jax.export.symbolic_shape`.
    """
    closed = jax.make_jaxpr(lambda *xs: tuple(function(*xs)))(*arguments)
    inputs = [_value(var.aval) for var in closed.jaxpr.invars]
    ops: list[Op] = []
    found = _flatten(closed.jaxpr, closed.consts, inputs, ops)
    outputs = [output for output in found if isinstance(output, Value)]
    if len(outputs) != len(found):
        raise ValueError("an output that does not depend on the input")
    return Program(inputs=inputs, outputs=outputs, ops=_needed(_fuse(ops), outputs))


def dense(program: Program) -> list[Op]:
    """Returns the dense layers: the last axis of a tensor times a constant matrix."""
    return [op for op in program.ops if is_dense(op)]


def is_dense(op: Op) -> bool:
    """Returns whether an operation is a dense layer."""
    if op.name != PRODUCT or not isinstance(op.inputs[1], np.ndarray):
        return False
    last = len(op.inputs[0].shape) - 1
    return op.params["dimension_numbers"] == (((last,), (0,)), ((), ()))


def run(
    program: Program,
    arguments: Sequence[Any],
    *,
    forms: Mapping[str, Form] | None = None,
    written: Callable[[Value, Any], Any] = lambda _, array: array,
) -> list[Any]:
    """Runs a program with JAX.

    Args:
      forms: name of an operation -> function of it and its inputs that returns its results.
      written: maps each result, with the value that it is of, to what later operations read.
    """
    forms = {GELU: _gelu_of} | dict(forms or {})
    env: dict[Value, Any] = dict(zip(program.inputs, arguments, strict=True))

    def read(operand: Operand) -> Any:
        return env[operand] if isinstance(operand, Value) else operand

    for op in program.ops:
        results = forms.get(op.name, bound)(op, [read(operand) for operand in op.inputs])
        env |= {value: written(value, array) for value, array in zip(op.outputs, results, strict=True)}
    return [read(operand) for operand in program.outputs]


def bound(op: Op, inputs: list[Any]) -> list[Any]:
    """Returns the results of an operation's JAX primitive."""
    results = op.primitive.bind(*inputs, **op.params)
    return list(results) if op.primitive.multiple_results else [results]


def _gelu_of(op: Op, inputs: list[Any]) -> list[Any]:
    return [jax.nn.gelu(inputs[0], approximate=False)]


def _value(aval: Any) -> Value:
    return Value(shape=tuple(aval.shape), dtype=np.dtype(aval.dtype))


def _flatten(jaxpr: Any, consts: Sequence[Any], arguments: Sequence[Operand], ops: list[Op]) -> list[Operand]:
    env: dict[Any, Operand] = {
        var: np.asarray(const) for var, const in zip(jaxpr.constvars, consts, strict=True)
    }
    env |= dict(zip(jaxpr.invars, arguments, strict=True))

    def read(atom: Any) -> Operand:
        return np.asarray(atom.val) if isinstance(atom, core.Literal) else env[atom]

    for eqn in jaxpr.eqns:
        results = _equation(eqn, [read(atom) for atom in eqn.invars], ops)
        env |= dict(zip(eqn.outvars, results, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _equation(eqn: Any, inputs: list[Operand], ops: list[Op]) -> list[Operand]:
    name, params = eqn.primitive.name, eqn.params
    inner = params.get("jaxpr", params.get("call_jaxpr"))
    if name == "scan":
        return _unrolled(eqn, inputs, ops)
    if name == "platform_index":  # the default branch: the other runtimes are not platforms of JAX
        return [np.array(params["platforms"].index(None), np.int32)]
    if name == "cond" and isinstance(inputs[0], np.ndarray):
        inner, inputs = params["branches"][int(inputs[0])], inputs[1:]
    if inner is not None:
        return _flatten(getattr(inner, "jaxpr", inner), getattr(inner, "consts", ()), inputs, ops)
    if name in _IDENTITIES:
        return inputs
    outputs = [_value(var.aval) for var in eqn.outvars]
    concrete = all(isinstance(size, int) for out in outputs for size in out.shape)
    if concrete and all(isinstance(operand, np.ndarray) for operand in inputs):
        found = eqn.primitive.bind(*inputs, **params)
        return [np.asarray(x) for x in (found if eqn.primitive.multiple_results else [found])]
    ops.append(Op(name, inputs, outputs, params, eqn.primitive))
    return list(outputs)


def _unrolled(eqn: Any, inputs: list[Operand], ops: list[Op]) -> list[Operand]:
    """Repeats the body of a scan, once per layer."""
    params, body, stacks = eqn.params, eqn.params["jaxpr"], []
    # The inputs are constants, carry and stacks; only stacks have one axis more than in the body. The
    # parameters with the counts have different names in different versions of JAX.
    carried = _of_one_shape(eqn.outvars, body.jaxpr.outvars)
    fixed = _of_one_shape(eqn.invars, body.jaxpr.invars) - carried
    constants, carry = inputs[:fixed], inputs[fixed : fixed + carried]
    steps = list(range(params["length"]))
    for i in steps[::-1] if params["reverse"] else steps:
        rows = [np.asarray(stacked)[i] for stacked in inputs[fixed + carried :]]
        outputs = _flatten(body.jaxpr, body.consts, [*constants, *carry, *rows], ops)
        carry = outputs[:carried]
        stacks.append(outputs[carried:])
    in_order = stacks[::-1] if params["reverse"] else stacks
    return carry + [_stacked(rows, ops) for rows in zip(*in_order, strict=True)]


def _of_one_shape(outside: Sequence[Any], inside: Sequence[Any]) -> int:
    return sum(a.aval.ndim == b.aval.ndim for a, b in zip(outside, inside, strict=True))


def _stacked(rows: Sequence[Operand], ops: list[Op]) -> Operand:
    shapes = [jax.ShapeDtypeStruct(row.shape, row.dtype) for row in rows]
    closed = jax.make_jaxpr(lambda *rows: jax.numpy.stack(rows))(*shapes)
    return _flatten(closed.jaxpr, closed.consts, rows, ops)[0]


def _needed(ops: Sequence[Op], outputs: Sequence[Value]) -> list[Op]:
    """Drops the operations that no output depends on."""
    wanted = set(outputs)
    kept = []
    for op in reversed(ops):
        if any(out in wanted for out in op.outputs):
            kept.append(op)
            wanted |= {value for value in op.inputs if isinstance(value, Value)}
    return kept[::-1]


_Makers = Mapping[Value, Op]


def _fuse(ops: Sequence[Op]) -> list[Op]:
    """Replaces each exact GELU, and each stack of products with one kernel, by one operation.

    A jaxpr has no GELU, only the products and the erfc that it is made of, while runtimes have an
    operator for it. The model multiplies each task's rows by a shared kernel separately and stacks the
    results; as one product it is faster, and quantizers see one kernel.

    Operations that only the replaced ones need stay in the list, for `_needed` to drop.
    """
    made_by = {out: op for op in ops for out in op.outputs}
    return [_gelu(op, made_by) or _joined(op, made_by) or op for op in ops]


def _maker(operand: Operand, name: str, made_by: _Makers) -> Op | None:
    """Returns the operation that made an operand, if it has this name."""
    op = made_by.get(operand) if isinstance(operand, Value) else None
    return op if op is not None and op.name == name else None


def _gelu(op: Op, made_by: _Makers) -> Op | None:
    """Matches (x / 2) erfc(-x / sqrt 2), the form in which jax.nn.gelu computes the exact GELU."""
    if op.name != "mul":
        return None
    for half, rest in (op.inputs, op.inputs[::-1]):
        erfc = _maker(rest, "erfc", made_by)
        scaled = _times(erfc.inputs[0], np.sqrt(0.5), made_by) if erfc else None
        negative = _maker(scaled, "neg", made_by) if scaled is not None else None
        if negative and _times(half, 0.5, made_by) is negative.inputs[0]:
            return Op(GELU, negative.inputs, op.outputs, params={})
    return None


def _times(operand: Operand, constant: float, made_by: _Makers) -> Operand | None:
    """Returns x if the operand is `constant * x`."""
    if (op := _maker(operand, "mul", made_by)) is None:
        return None
    for one, other in (op.inputs, op.inputs[::-1]):
        if isinstance(one, np.ndarray) and one.size == 1 and np.isclose(one, constant):
            return other
    return None


def _joined(op: Op, made_by: _Makers) -> Op | None:
    """Matches stack([x[0] W, x[1] W, ...]), the model's form for tasks, which equals x W."""
    if op.name != "stack" or op.params["axis"] != 0:
        return None
    products = [_maker(row, "dot_general", made_by) for row in op.inputs]
    sources = [_sliced(p, i, made_by) if p else None for i, p in enumerate(products)]
    first, source = products[0], sources[0]
    if first is None or source is None or source.shape[0] != len(products):
        return None
    kernel, last = first.inputs[1], len(source.shape) - 1
    if first.params["dimension_numbers"] != (((last - 1,), (0,)), ((), ())):
        return None
    if any(x is not source for x in sources) or any(p.inputs[1] is not kernel for p in products if p):
        return None
    params = {**first.params, "dimension_numbers": (((last,), (0,)), ((), ()))}
    return Op("dot_general", [source, kernel], op.outputs, params, first.primitive)


def _sliced(product: Op, i: int, made_by: _Makers) -> Operand | None:
    """Returns x if the product is x[i] W with a constant W."""
    squeeze = _maker(product.inputs[0], "squeeze", made_by)
    row = _maker(squeeze.inputs[0], "slice", made_by) if squeeze else None
    if row is None or not isinstance(product.inputs[1], np.ndarray):
        return None
    x = row.inputs[0]
    matches = row.params["start_indices"][0] == i and row.outputs[0].shape == (1, *x.shape[1:])
    return x if matches else None
