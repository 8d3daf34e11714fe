"""Attention in one pass for TPUs: the weights of a head never leave the chip.

A program of the grid works on one example and on some columns of the merged heads: blocks (N, columns) of
q, k and v as the product of qkv wrote them, so nothing is transposed or padded in main memory. The weights
are made for 128 queries at a time as (M, 128), keys in rows: maxima and sums over rows are cheap, and the
products stream all keys past one block of queries. The backward pass saves q, k and v alone and makes the
weights again. Rotary positions are applied inside, in float32.
"""

import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from softbio_jax.models.attention import program
from softbio_jax.models.attention.layout import LANES, Layout, Turn, on_chip_bytes


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def attention(layout: Layout, inputs: tuple[jax.Array, ...], turn: Turn | None) -> jax.Array:
    """Returns softmax(q k^T / sqrt(head_dim)) v, (B, N, D), softmax in float32; heads are merged.

    Args:
      layout: of the kernel.
      inputs: qkv (B, N, 3 D) alone, or q (B, N, D) and kv (B, M, 2 D).
      turn: rotary positions of q and k of one length; None: none. They are not differentiated.
    """
    operands, specs = _operands(layout, inputs)
    queries, keys = operands[0].shape[1], operands[1].shape[1]
    batch, columns, dtype = operands[0].shape[0], layout.columns, operands[0].dtype
    tables = turn or ()
    vmem = on_chip_bytes(layout, queries, keys, dtype)
    scratch = [pltpu.VMEM((columns, keys), dtype)]
    if turn is not None:
        scratch += [pltpu.VMEM((n, columns), dtype) for n in (queries, keys)]
    out = jax.ShapeDtypeStruct((batch, queries, layout.width), dtype)
    made: jax.Array = _call(
        functools.partial(program.forward, layout, bool(turn)),
        layout,
        [*operands, *tables],
        [*specs, *map(_constant, tables)],
        out,
        _columns(queries, columns),
        scratch,
        vmem=vmem,
        flops=_flops(layout, batch, queries, keys, products=2),
    )
    return made


def _attention_forward(layout: Layout, inputs: tuple[jax.Array, ...], turn: Turn | None) -> tuple[Any, Any]:
    return attention(layout, inputs, turn), (inputs, turn)


def _attention_backward(layout: Layout, saved: Any, dout: jax.Array) -> tuple[Any, None]:
    inputs, turn = saved
    operands, specs = _operands(layout, inputs)
    queries, keys = operands[0].shape[1], operands[1].shape[1]
    batch, columns, dtype = operands[0].shape[0], layout.columns, operands[0].dtype
    tables = turn or ()
    vmem = on_chip_bytes(layout, queries, keys, dtype)
    scratch = [pltpu.VMEM((columns, keys), dtype)]
    scratch += [pltpu.VMEM((n, columns), jnp.float32) for n in (queries, keys, keys)]
    if turn is not None:
        scratch += [pltpu.VMEM((n, columns), dtype) for n in (queries, keys)]
    gradients = _call(
        functools.partial(program.backward, layout, bool(turn), len(inputs)),
        layout,
        [*operands, dout, *tables],
        [*specs, _columns(queries, columns), *map(_constant, tables)],
        tuple(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in inputs),
        # All columns of an example stay on the chip until its programs have filled them.
        tuple(pl.BlockSpec((1, *x.shape[1:]), lambda b, g: (b, 0, 0)) for x in inputs),
        scratch,
        vmem=vmem,
        flops=_flops(layout, batch, queries, keys, products=5),
    )
    return tuple(gradients), None


attention.defvjp(_attention_forward, _attention_backward)


def _operands(layout: Layout, inputs: tuple[jax.Array, ...]) -> tuple[list[jax.Array], list[pl.BlockSpec]]:
    """Returns the arrays that q, k and v are read from, and their blocks."""
    columns, groups = layout.columns, layout.width // layout.columns
    if columns % LANES:  # the compiler takes no such part of an array
        parts = [jnp.split(x, x.shape[-1] // layout.width, axis=-1) for x in inputs]
        arrays, offsets = list(itertools.chain(*parts)), (0, 0, 0)
    elif len(inputs) == 1:
        arrays, offsets = [*inputs] * 3, (0, groups, 2 * groups)
    else:
        arrays, offsets = [inputs[0], inputs[1], inputs[1]], (0, 0, groups)
    return arrays, [_columns(x.shape[1], columns, at) for x, at in zip(arrays, offsets, strict=True)]


def _columns(rows: int, columns: int, offset: int = 0) -> pl.BlockSpec:
    return pl.BlockSpec((1, rows, columns), lambda b, g: (b, 0, offset + g))


def _constant(table: jax.Array) -> pl.BlockSpec:
    return pl.BlockSpec(table.shape, lambda b, g: (0, 0))


def _flops(layout: Layout, batch: int, queries: int, keys: int, *, products: int) -> int:
    return 2 * products * batch * queries * keys * layout.width


def _call(
    kernel: Callable[..., None],
    layout: Layout,
    arrays: list[jax.Array],
    specs: list[pl.BlockSpec],
    out: Any,
    out_specs: Any,
    scratch: list[Any],
    *,
    vmem: int,
    flops: int,
) -> Any:
    batch, groups = arrays[0].shape[0], layout.width // layout.columns
    distinct = {id(x): x for x in arrays}.values()
    moved = sum(x.size * x.dtype.itemsize for x in (*distinct, *jax.tree.leaves(out)))
    return pl.pallas_call(
        kernel,
        grid=(batch, groups),
        in_specs=specs,
        out_specs=out_specs,
        out_shape=out,
        scratch_shapes=scratch,
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "arbitrary"), vmem_limit_bytes=vmem
        ),
        cost_estimate=pl.CostEstimate(
            flops=flops, bytes_accessed=moved, transcendentals=flops // (4 * layout.head_dim)
        ),
        interpret=layout.interpret,
    )(*arrays)
