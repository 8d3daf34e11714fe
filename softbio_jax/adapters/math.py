"""The arithmetic of LoRA, DoRA and custom formulas, in flax's kernel layout (in, out)."""

import abc
import dataclasses
import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jax.extend.random import threefry2x32_p

Leaves = Mapping[str, jax.Array]  # of one layer, by name
# Checkpoint names, by which a remat policy saves them: of x A, of a layer's product, of what dropout keeps.
DOWN, PRODUCT, MASK = "adapter_down", "product", "dropout_mask"


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def low_rank(x: jax.Array, a: jax.Array, b: jax.Array, scale: float) -> jax.Array:
    """Returns s (x A) B (..., out), for x (..., in), A (in, R), B (R, out) and s = scale.

    The backward pass is written out because XLA's CPU backend leaves its fast matmul path for the
    layout of autodiff's two adapter gradients (measured: it doubles the step).

    Source: Hu et al. 2021, arXiv:2106.09685.
    """
    return (x @ a) @ (b * scale)


def _low_rank_forward(
    x: jax.Array, a: jax.Array, b: jax.Array, scale: float
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    down = checkpoint_name(x @ a, DOWN)
    return down @ (b * scale), (x, down, a, b)


def _low_rank_backward(
    scale: float, residuals: tuple[jax.Array, ...], dy: jax.Array
) -> tuple[jax.Array, ...]:
    x, down, a, b = residuals
    rows, drows = x.reshape(-1, x.shape[-1]), dy.reshape(-1, dy.shape[-1])
    ddown = drows @ (b * scale).T  # (rows, R)
    da = (ddown.T @ rows).T
    db = (down.reshape(-1, down.shape[-1]) * scale).T @ drows
    return (ddown @ a.T).reshape(x.shape), da, db


low_rank.defvjp(_low_rank_forward, _low_rank_backward)


def task_low_rank(x: jax.Array, a: jax.Array, b: jax.Array, scale: float) -> jax.Array:
    """Returns s (x_t A_tp) B_tp (T, B, N, out) of every task t, the projections p side by side.

    Args:
      x: (B, N, in), the same for all tasks, or (T, B, N, in).
      a: A (T, P, in, R).
      b: B (T, P, R, out / P).
      scale: s.

    Source: Agiza et al. 2024, arXiv:2403.20320, task-specific matrices.
    """
    down = jnp.einsum("bni,tpir->tbnpr" if x.ndim == 3 else "tbni,tpir->tbnpr", x, a)
    up = jnp.einsum("tbnpr,tpro->tbnpo", down, b * scale)
    return up.reshape(*up.shape[:3], -1)


def dropout(x: jax.Array, key: jax.Array, rows: jax.Array, *, rate: float) -> jax.Array:
    """Returns x with a fraction `rate` of its values zero and the others divided by 1 - rate.

    The rate is rounded to a multiple of 2^-16. An example's mask depends only on the key and its index
    in the global batch, not on the devices, processes and microbatches that the batch is split over.

    Args:
      x: (..., B, N, in).
      key: of the layer and the step.
      rows: (B,) int32, indices in the global batch.
      rate: in [0, 1).

    Source: Srivastava et al. 2014, JMLR 15.
    """
    below = min(round(rate * 2**16), 2**16 - 1)
    # Compared before they are side by side: a byte each instead of four.
    parts = [part >= below for part in _uniform16(key, rows, x.shape)]
    keep = checkpoint_name(jnp.concatenate(parts, axis=-1)[..., : x.shape[-1]], MASK)
    return jnp.where(keep, x / (1 - below / 2**16), jnp.zeros((), x.dtype))


def _uniform16(key: jax.Array, rows: jax.Array, shape: tuple[int, ...]) -> list[jax.Array]:
    """Returns random integers below 2^16, four arrays (..., B, N, in / 4) uint32, an example's from its row.

    A block of Threefry, the counter-based generator of jax.random, makes four of them. jax.random computes
    a block for each.

    Source: Salmon et al. 2011, doi:10.1145/2063384.2063405.
    """
    axis, blocks = len(shape) - 3, (*shape[:-1], -(-shape[-1] // 4))
    row = jax.lax.broadcast_in_dim(rows.astype(jnp.uint32), blocks, (axis,))
    place = jnp.zeros(blocks, jnp.uint32)
    for dim, size in enumerate(blocks):
        if dim != axis:
            place = place * size + jax.lax.broadcasted_iota(jnp.uint32, blocks, dim)
    first, second = jax.random.key_data(key).reshape(-1)[:2]
    words = threefry2x32_p.bind(jnp.broadcast_to(first, blocks), jnp.broadcast_to(second, blocks), row, place)
    return [part for word in words for part in (word & 0xFFFF, word >> 16)]


def apart(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Returns x W, computed one task at a time if x (T, B, N, in) has a task axis.

    A product of more rows may sum in another order; this way each task's equals a plain encoder's
    bit for bit.
    """
    return jnp.stack([x[t] @ kernel for t in range(len(x))]) if x.ndim == 4 else x @ kernel


def column_norm(kernel: jax.Array) -> jax.Array:
    """Returns the Euclidean norm of each output unit of W (..., in, out): (..., out), float32."""
    return jnp.sqrt(jnp.sum(jnp.square(kernel.astype(jnp.float32)), axis=-2))


def dora_gain(
    kernel: jax.Array, base_norm: jax.Array, a: jax.Array, b: jax.Array, magnitude: jax.Array, scale: float
) -> jax.Array:
    """Returns g = m / stop_gradient(||W + s A B||) (out,) float32, without the product A B.

    With n = ||W_j||: ||W_j + s (A B)_j|| = n sqrt(1 + (2 s B_j . (A^T W_j) + s^2 B_j^T (A^T A)
    B_j) / n^2), which is exactly n, so g exactly 1, while B is zero and m = n.

    Args:
      kernel: W (in, out).
      base_norm: n (out,) float32, constant while W is frozen.
      a: A (in, R).
      b: B (R, out).
      magnitude: m (out,) float32.
      scale: s.

    Source: Liu et al. 2024, arXiv:2402.09353, section 4.3; the expansion as in huggingface/peft
    #3387.
    """
    kernel, a, b = (jax.lax.stop_gradient(t).astype(jnp.float32) for t in (kernel, a, b))
    cross = jnp.sum(b * (a.T @ kernel), axis=0)
    update = jnp.sum(b * ((a.T @ a) @ b), axis=0)
    growth = (2 * scale * cross + scale**2 * update) / jnp.square(base_norm)
    return magnitude / (base_norm * jnp.sqrt(jnp.maximum(1 + growth, 0.0)))


@jax.custom_vjp
def rescaled(base: jax.Array, low: jax.Array, gain: jax.Array) -> jax.Array:
    """Returns g (x W + s (x A) B), as x W + ((g - 1) x W + g s (x A) B).

    In this order x W is unchanged bit for bit while A B is zero and g one. The backward pass saves
    only the result y, as g's gradient is sum dy y / g.

    Args:
      base: x W (..., out); the result has its type.
      low: s (x A) B (..., out).
      gain: g (out,) float32, nowhere zero.
    """
    # Before the cast: bfloat16 has no number between 1 and 1.0078.
    gain = jax.lax.broadcast_to_rank(gain, base.ndim)
    excess = (gain - 1).astype(base.dtype)
    return base + (excess * base + gain.astype(base.dtype) * low)


def _rescaled_forward(
    base: jax.Array, low: jax.Array, gain: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    y = checkpoint_name(rescaled(base, low, gain), PRODUCT)
    return y, (y, gain)


def _rescaled_backward(residuals: tuple[jax.Array, ...], dy: jax.Array) -> tuple[jax.Array, ...]:
    y, gain = residuals
    dbase = dy * jax.lax.broadcast_to_rank(gain, dy.ndim).astype(dy.dtype)
    products = dy.astype(jnp.float32) * y.astype(jnp.float32)
    return dbase, dbase, jnp.sum(products, axis=tuple(range(dy.ndim - 1))) / gain


rescaled.defvjp(_rescaled_forward, _rescaled_backward)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Formula(abc.ABC):
    """A custom update of the product x W in the dense layers that a rule chooses.

    The fields of a subclass are its settings. Its leaves are stored beside the kernel, under the
    names that `init` returns. The bias is added afterwards.
    """

    @abc.abstractmethod
    def init(self, key: jax.Array, inputs: int, outputs: int) -> Leaves:
        """Returns the trained leaves of a layer of W (in, out), float32, with which y is exactly x W.

        Called once per leaf, each time with that leaf's random key.
        """

    @abc.abstractmethod
    def apply(self, x: jax.Array, kernel: jax.Array, leaves: Leaves) -> jax.Array:
        """Returns y (..., out) of x (..., in) and W (in, out), all of one type; leaves are float32."""

    @abc.abstractmethod
    def merge(self, kernel: np.ndarray, leaves: Mapping[str, np.ndarray]) -> np.ndarray:
        """Returns the plain kernel (..., in, out) of the same y; leaves have its stacking axes."""

    def products(self, inputs: int, outputs: int) -> int:
        """Returns the operations of matrix products that `apply` adds to x W, per row."""
        del inputs, outputs
        return 0
