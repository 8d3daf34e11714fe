"""What happens to an array between two checkpoint layouts, each with its inverse."""

import dataclasses
from collections.abc import Callable

import numpy as np

from softbio_jax.errors import UserError

Arrays = tuple[np.ndarray, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Transform:
    """One source array to one or more target arrays (`forward`) and back (`backward`)."""

    name: str
    forward: Callable[[np.ndarray], Arrays]
    backward: Callable[..., np.ndarray]


def _split_rows(array: np.ndarray) -> Arrays:
    width = array.shape[0] // 3
    return array[:width], array[width:]


def _join_rows(q: np.ndarray, kv: np.ndarray) -> np.ndarray:
    return np.concatenate([q, kv])


def _head_from_projection(projection: np.ndarray) -> Arrays:
    return projection.T, np.zeros(projection.shape[1], projection.dtype)


def _projection_from_head(weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    if np.any(bias):
        raise UserError("the head's bias is not zero", where="head.bias",
                        expected="zeros, for the projection has no bias",
                        found=f"values up to {np.abs(bias).max():.3g}",
                        fix="give the tower before its head was fine-tuned")  # fmt: skip
    return weight.T


SAME = Transform(name="same", forward=lambda a: (a,), backward=lambda a: a)
# torch Linear (out, in) <-> kernel (in, out)
TRANSPOSE = Transform(name="transpose", forward=lambda a: (a.T,), backward=lambda a: a.T)
# torch Conv2d (out, in, rows, columns) <-> kernel (rows, columns, in, out)
CONV = Transform(
    name="conv",
    forward=lambda a: (a.transpose(2, 3, 1, 0),),
    backward=lambda a: a.transpose(3, 2, 0, 1),
)
# Fused rows [q; k; v] <-> q and [k; v], for a vector or a torch Linear.
SPLIT_ROWS = Transform(name="split rows", forward=_split_rows, backward=_join_rows)
SPLIT_ROWS_TRANSPOSE = Transform(
    name="split rows, transpose",
    forward=lambda a: tuple(part.T for part in _split_rows(a)),
    backward=lambda q, kv: _join_rows(q.T, kv.T),
)
# timm writes the projection (in, out) as a linear head whose bias it adds as zeros.
HEAD = Transform(
    name="head with zero bias", forward=_head_from_projection, backward=_projection_from_head
)


def lead(axes: int) -> Transform:
    """(...) <-> (1, ..., ...): timm keeps its tokens with leading axes of size 1."""
    return Transform(
        name=f"lead {axes}",
        forward=lambda a: (a.reshape((1,) * axes + a.shape),),
        backward=lambda a: a.reshape(a.shape[axes:]),
    )
