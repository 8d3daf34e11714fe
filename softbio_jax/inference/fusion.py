"""Operations that JAX writes as several and other runtimes have as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from softbio_jax.inference.program import GELU, Op, Operand, Value

_Makers = Mapping[Value, Op]


def fuse(ops: Sequence[Op]) -> list[Op]:
    """Returns the operations with the exact GELU, and products kept apart by rows, as one each.

    What the replaced ones were made from stays, for `program.needed` to drop.
    """
    made_by = {out: op for op in ops for out in op.outputs}
    return [_gelu(op, made_by) or _joined(op, made_by) or op for op in ops]


def _maker(operand: Operand, name: str, made_by: _Makers) -> Op | None:
    """Returns the operation of that name that made an operand."""
    op = made_by.get(operand) if isinstance(operand, Value) else None
    return op if op is not None and op.name == name else None


def _gelu(op: Op, made_by: _Makers) -> Op | None:
    """(x / 2) erfc(-x / sqrt 2), as jax.nn.gelu has it without the approximation."""
    if op.name != "mul":
        return None
    for half, rest in (op.inputs, op.inputs[::-1]):
        erfc = _maker(rest, "erfc", made_by)
        scaled = _times(erfc.inputs[0], np.sqrt(0.5), made_by) if erfc else None
        negative = _maker(scaled, "neg", made_by) if scaled is not None else None
        if negative and _times(half, 0.5, made_by) is negative.inputs[0]:
            return Op(name=GELU, inputs=negative.inputs, outputs=op.outputs, params={})
    return None


def _times(operand: Operand, constant: float, made_by: _Makers) -> Operand | None:
    """Returns x of constant x."""
    if (op := _maker(operand, "mul", made_by)) is None:
        return None
    for one, other in (op.inputs, op.inputs[::-1]):
        if isinstance(one, np.ndarray) and one.size == 1 and np.isclose(one, constant):
            return other
    return None


def _joined(op: Op, made_by: _Makers) -> Op | None:
    """stack([x[0] W, x[1] W, ...]), as the model has it for tasks, is x W."""
    if op.name != "stack" or op.params["axis"] != 0:
        return None
    products = [_maker(row, "dot_general", made_by) for row in op.inputs]
    wholes = [_sliced(p, i, made_by) if p else None for i, p in enumerate(products)]
    first, whole = products[0], wholes[0]
    if first is None or whole is None or whole.shape[0] != len(products):
        return None
    kernel, last = first.inputs[1], len(whole.shape) - 1
    if first.params["dimension_numbers"] != (((last - 1,), (0,)), ((), ())):
        return None
    if any(x is not whole for x in wholes) or any(p.inputs[1] is not kernel for p in products if p):
        return None
    params = {**first.params, "dimension_numbers": (((last,), (0,)), ((), ()))}
    return Op(name="dot_general", inputs=[whole, kernel], outputs=op.outputs, params=params,
              primitive=first.primitive)  # fmt: skip


def _sliced(product: Op, i: int, made_by: _Makers) -> Operand | None:
    """Returns x of x[i] W, W a constant."""
    squeeze = _maker(product.inputs[0], "squeeze", made_by)
    row = _maker(squeeze.inputs[0], "slice", made_by) if squeeze else None
    if row is None or not isinstance(product.inputs[1], np.ndarray):
        return None
    x = row.inputs[0]
    only = row.params["start_indices"][0] == i and row.outputs[0].shape == (1, *x.shape[1:])
    return x if only else None
