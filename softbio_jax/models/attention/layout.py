"""The shape of the attention kernel: columns of a program, rotary tables, on-chip memory."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from softbio_jax.models.positions import Rotation

LANES = 128  # columns of a register
QUERIES = 128  # at a time


class Layout(NamedTuple):
    """What a kernel is made for, besides its arrays' shapes and type.

    Args:
      heads: K.
      head_dim: channels of a head.
      causal: whether keys after the query are masked.
      precision: of float32 products.
      interpret: whether the kernel is emulated, for tests on any machine.
      reach: of the rotation.
    """

    heads: int
    head_dim: int
    causal: bool
    precision: Any
    interpret: bool
    reach: int = 1

    @property
    def width(self) -> int:
        return self.heads * self.head_dim

    @property
    def columns(self) -> int:
        """Of a program: the fewest whole heads that are a multiple of 128, or all."""
        together = LANES // math.gcd(self.head_dim, LANES)
        return (together if self.heads % together == 0 else self.heads) * self.head_dim


class Turn(NamedTuple):
    """Rotary positions as x cos + partner(x) sin, tables (N, columns) float32.

    The partner of column c is c + reach where floor(c / reach) is even, else c - reach; sin has the sign.
    """

    cos: jax.Array
    sin: jax.Array


def turn_tables(rotation: Rotation, columns: int) -> Turn:
    """Returns the tables of a program's columns.

    Args:
      rotation: both channels of a pair turn by one angle.
      columns: of a program.
    """
    cos, sin = rotation.cos, rotation.sin
    first = np.arange(cos.shape[-1])[None] % (2 * rotation.reach) < rotation.reach
    signed = jnp.where(first, -sin, sin)
    return Turn(*(jnp.tile(table, (1, columns // cos.shape[-1])) for table in (cos, signed)))


def on_chip_bytes(layout: Layout, queries: int, keys: int, dtype: Any) -> int:
    """Returns what the backward pass needs of a chip's vector memory at most, in bytes."""
    size = np.dtype(dtype).itemsize
    at_once = LANES * (1 + ((queries - 2) % QUERIES == QUERIES - 1))  # with 129 left, 256
    queries, keys = (-(-n // 16) * 16 for n in (queries, keys))  # rows of a register of 16 bits
    columns, width = (-(-n // LANES) * LANES for n in (layout.columns, layout.width))
    # The next program's blocks arrive while this one works, and the last one's leave.
    blocks = 2 * columns * (2 * (queries + keys) * size + 2 * queries * 4)
    outputs = 2 * width * (queries + 2 * keys) * size
    scratch = columns * ((queries + 2 * keys) * (size + 4))
    weights = 8 * keys * at_once * 4
    turned = 4 * max(queries, keys) * columns * 4
    return blocks + outputs + scratch + weights + turned
