"""What a program of the attention kernel does: some columns of one example, forward and backward."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from softbio_jax.models.attention.layout import LANES, QUERIES, Layout

_MASKED = float(np.finfo(np.float32).min)
_PLAIN = (((1,), (0,)), ((), ()))  # a b
_TRANSPOSED = (((1,), (1,)), ((), ()))  # a b^T


def forward(layout: Layout, turns: bool, *refs: Any) -> None:
    """Writes the output (1, N, columns).

    Args:
      layout: of the kernel.
      turns: whether there are rotary tables.
      refs: q (1, N, columns), k and v (1, M, columns), the tables, the output; scratch for v^T, and for
        turned q and k where there are tables.
    """
    q_ref, k_ref, v_ref, *rest = refs
    tables, (out_ref, vt_ref, *turned) = rest[: 2 * turns], rest[2 * turns :]
    q_ref, k_ref, v_ref = q_ref.at[0], k_ref.at[0], v_ref.at[0]
    if turns:
        q_ref, k_ref = _turned_into(layout, turned, (q_ref, k_ref), tables)
    vt_ref[...] = _transposed(v_ref[...])

    def block(start: Any, size: int) -> None:
        rows = pl.ds(start, size)
        outs = []
        for head, (window, mask) in enumerate(_windows(layout)):
            q = _masked(q_ref[rows, window], mask)
            weights, total = _weights(layout, q, k_ref[:, window], start)
            vt = vt_ref[pl.ds(head * layout.head_dim, layout.head_dim), :]
            outs.append(_dot(layout, vt, weights.astype(vt.dtype), _PLAIN) / total)
        out_ref[0, rows, :] = _rows(outs).astype(out_ref.dtype)

    _over_queries(q_ref.shape[0], block)


def backward(layout: Layout, turns: bool, outputs: int, *refs: Any) -> None:
    """Writes this program's columns of the gradients of qkv, or of q and kv.

    Args:
      layout: of the kernel.
      turns: whether there are rotary tables.
      outputs: 1 for qkv, 2 for q and kv.
      refs: q (1, N, columns), k and v (1, M, columns), the output's gradient, the tables, the gradients;
        scratch for k^T, dq, dk and dv, and for turned q and k where there are tables.
    """
    q_ref, k_ref, v_ref, dout_ref, *rest = refs
    tables, rest = rest[: 2 * turns], rest[2 * turns :]
    d_refs, (kt_ref, dq_ref, dk_ref, dv_ref, *turned) = rest[:outputs], rest[outputs:]
    q_ref, k_ref, v_ref, dout_ref = q_ref.at[0], k_ref.at[0], v_ref.at[0], dout_ref.at[0]
    if turns:
        q_ref, k_ref = _turned_into(layout, turned, (q_ref, k_ref), tables)
    kt_ref[...] = _transposed(k_ref[...])
    dk_ref[...] = jnp.zeros_like(dk_ref)
    dv_ref[...] = jnp.zeros_like(dv_ref)
    scale = layout.head_dim**-0.5

    def block(start: Any, size: int) -> None:
        rows = pl.ds(start, size)
        dqs = []
        for head, (window, mask) in enumerate(_windows(layout)):
            q, dout = _masked(q_ref[rows, window], mask), _masked(dout_ref[rows, window], mask)
            weights, total = _weights(layout, q, k_ref[:, window], start)
            weights = weights / total
            dv_ref[:, window] += _dot(layout, weights.astype(q.dtype), dout, _PLAIN)
            dweights = _dot(layout, v_ref[:, window], dout, _TRANSPOSED)
            mean = (weights * dweights).sum(axis=0, keepdims=True)
            dscores = (weights * (dweights - mean) * scale).astype(q.dtype)
            dk_ref[:, window] += _dot(layout, dscores, q, _PLAIN)
            kt = kt_ref[pl.ds(head * layout.head_dim, layout.head_dim), :]
            dqs.append(_dot(layout, kt, dscores, _PLAIN))
        dq_ref[rows, :] = _rows(dqs)

    _over_queries(q_ref.shape[0], block)
    dq, dk, dv = dq_ref[...], dk_ref[...], dv_ref[...]
    if turns:
        dq, dk = (_turned(layout, x, tables, -1.0) for x in (dq, dk))
    for place, value in enumerate((dq, dk, dv)):
        d_ref, part = (d_refs[0], place) if outputs == 1 else (d_refs[min(place, 1)], max(place - 1, 0))
        at: Any = part * layout.width
        if layout.columns != layout.width:
            at = pl.multiple_of(at + pl.program_id(1) * layout.columns, LANES)
        d_ref[0, :, pl.ds(at, layout.columns)] = value.astype(d_ref.dtype)


def _over_queries(queries: int, block: Callable[[Any, int], None]) -> None:
    """Calls block(first query, number) for 128 queries at a time, and for the 2 to 129 that are left."""
    full = (queries - 2) // QUERIES  # the compiler has no products of one row

    def body(index: Any, carry: None) -> None:
        block(pl.multiple_of(index * QUERIES, QUERIES), QUERIES)

    if full:
        jax.lax.fori_loop(0, full, body, None)
    block(full * QUERIES, queries - full * QUERIES)


def _windows(layout: Layout) -> list[tuple[slice, jax.Array | None]]:
    """Returns per head the whole registers that hold it, and which of their columns are its own.

    A product over the others with zeros costs nothing where a head has less than 128 channels, and saves
    moving columns.
    """
    found: list[tuple[slice, jax.Array | None]] = []
    for head in range(layout.columns // layout.head_dim):
        low, high = head * layout.head_dim, (head + 1) * layout.head_dim
        first = low // LANES * LANES
        last = min(-(-high // LANES) * LANES, layout.columns)
        mask = None
        if (first, last) != (low, high):
            column = jax.lax.broadcasted_iota(jnp.int32, (1, last - first), 1) + first
            mask = (column >= low) & (column < high)
        found.append((slice(first, last), mask))
    return found


def _masked(x: jax.Array, mask: jax.Array | None) -> jax.Array:
    return x if mask is None else jnp.where(mask, x, jnp.zeros_like(x))


def _weights(layout: Layout, q: jax.Array, k: jax.Array, start: Any) -> tuple[jax.Array, jax.Array]:
    """Returns exp(k q^T / sqrt(head_dim) - maximum), (M, queries) float32, and its sums (1, queries)."""
    scores = _dot(layout, k, q, _TRANSPOSED) * layout.head_dim**-0.5
    if layout.causal:
        key = jax.lax.broadcasted_iota(jnp.int32, scores.shape, 0)
        query = jax.lax.broadcasted_iota(jnp.int32, scores.shape, 1) + start
        scores = jnp.where(key <= query, scores, _MASKED)
    weights = jnp.exp(scores - scores.max(axis=0, keepdims=True))
    return weights, weights.sum(axis=0, keepdims=True)


def _dot(layout: Layout, a: jax.Array, b: jax.Array, dimensions: Any) -> jax.Array:
    # Products of 16 bits are exact in float32 by default, and take no other precision.
    precision = layout.precision if a.dtype == jnp.float32 else jax.lax.Precision.DEFAULT
    return jax.lax.dot_general(a, b, dimensions, precision=precision, preferred_element_type=jnp.float32)


def _rows(heads: list[jax.Array]) -> jax.Array:
    """Returns (queries, columns) of each head's (head_dim, queries)."""
    return jnp.concatenate(heads, axis=0).T


def _transposed(x: jax.Array) -> jax.Array:
    return x.astype(jnp.float32).T.astype(x.dtype)


def _turned_into(layout: Layout, targets: list[Any], sources: tuple[Any, ...], tables: Any) -> list[Any]:
    for target, source in zip(targets, sources, strict=True):
        target[...] = _turned(layout, source[...].astype(jnp.float32), tables).astype(target.dtype)
    return targets


def _turned(layout: Layout, x: jax.Array, tables: Any, sign: float = 1.0) -> jax.Array:
    """Turns float32 x (N, columns); a sign of -1 turns it back."""
    cos, sin = tables
    reach = layout.reach
    first = jax.lax.broadcasted_iota(jnp.int32, x.shape, 1) % (2 * reach) < reach
    partner = jnp.where(first, pltpu.roll(x, x.shape[1] - reach, 1), pltpu.roll(x, reach, 1))
    return x * cos[...] + sign * partner * sin[...]
