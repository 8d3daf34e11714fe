"""From a JAX function to a program.

Calls are inlined, loops unrolled and constants computed, so that a converter meets tensors and
arithmetic alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend import core

from softbio_jax.inference.fusion import fuse
from softbio_jax.inference.program import Op, Operand, Program, Value, needed

_SAME = ("copy", "stop_gradient", "optimization_barrier")


def trace(function: Callable[[Any], Sequence[Any]], *arguments: jax.ShapeDtypeStruct) -> Program:
    """Returns the program of a function from arrays to a sequence of arrays.

    Args:
      function: pure; arrays it closes over become constants.
      arguments: shapes, symbolic ones from `jax.export.symbolic_shape` allowed.
    """
    closed = jax.make_jaxpr(lambda *xs: tuple(function(*xs)))(*arguments)
    inputs = [_value(var.aval) for var in closed.jaxpr.invars]
    ops: list[Op] = []
    found = _flatten(closed.jaxpr, closed.consts, inputs, ops)
    outputs = [output for output in found if isinstance(output, Value)]
    if len(outputs) != len(found):
        raise ValueError("an output that does not depend on the input")
    return Program(inputs=inputs, outputs=outputs, ops=needed(fuse(ops), outputs))


def _value(aval: Any) -> Value:
    return Value(shape=tuple(aval.shape), dtype=np.dtype(aval.dtype))


def _flatten(
    jaxpr: Any, consts: Sequence[Any], arguments: Sequence[Operand], ops: list[Op]
) -> list[Operand]:
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
    if name == "platform_index":  # the converter's runtimes are none of JAX's platforms
        return [np.array(params["platforms"].index(None), np.int32)]
    if name == "cond" and isinstance(inputs[0], np.ndarray):
        inner, inputs = params["branches"][int(inputs[0])], inputs[1:]
    if inner is not None:
        return _flatten(getattr(inner, "jaxpr", inner), getattr(inner, "consts", ()), inputs, ops)
    if name in _SAME:
        return inputs
    outputs = [_value(var.aval) for var in eqn.outvars]
    concrete = all(isinstance(size, int) for out in outputs for size in out.shape)
    if concrete and all(isinstance(operand, np.ndarray) for operand in inputs):
        found = eqn.primitive.bind(*inputs, **params)
        return [np.asarray(x) for x in (found if eqn.primitive.multiple_results else [found])]
    ops.append(Op(name=name, inputs=inputs, outputs=outputs, params=params,
                  primitive=eqn.primitive))  # fmt: skip
    return list(outputs)


def _unrolled(eqn: Any, inputs: list[Operand], ops: list[Op]) -> list[Operand]:
    """Runs a scan's body once a layer."""
    params, body, stacks = eqn.params, eqn.params["jaxpr"], []
    # Constants, carry, rows: what is scanned over has an axis more outside than inside. The
    # parameters that say so have other names from one version of JAX to the next.
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
