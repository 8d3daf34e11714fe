"""The arithmetic of LoRA and DoRA, in flax's kernel layout (in, out)."""

import abc
import dataclasses
import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def low_rank(x: jax.Array, a: jax.Array, b: jax.Array, scale: float) -> jax.Array:
    """Returns s (x A) B.

    The backward pass is written out because XLA's CPU backend leaves its fast matmul path for
    the two adapter gradients as autodiff lays them out (measured: it doubles the step).

    Args:
      x: (..., in).
      a: A (in, R).
      b: B (R, out).
      scale: s.

    Returns:
      (..., out).

    Source: Hu et al. 2021, arXiv:2106.09685.
    """
    return (x @ a) @ (b * scale)


def _low_rank_forward(
    x: jax.Array, a: jax.Array, b: jax.Array, scale: float
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    down = x @ a
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
    """Returns s (x_t A_tp) B_tp of every task t and projection p, projections side by side.

    Args:
      x: (B, N, in), the same for all tasks, or (T, B, N, in).
      a: A (T, P, in, R).
      b: B (T, P, R, out / P).
      scale: s.

    Returns:
      (T, B, N, out).

    Source: Agiza et al. 2024, arXiv:2403.20320, task-specific matrices.
    """
    down = jnp.einsum("bni,tpir->tbnpr" if x.ndim == 3 else "tbni,tpir->tbnpr", x, a)
    up = jnp.einsum("tbnpr,tpro->tbnpo", down, b * scale)
    return up.reshape(*up.shape[:3], -1)


def dropout(x: jax.Array, key: jax.Array, rows: jax.Array, *, rate: float) -> jax.Array:
    """Returns x with a share `rate` of its numbers zero and the others divided by 1 - rate.

    An example's mask is drawn from the key and its place in the global batch alone, so it does
    not depend on the devices, processes and microbatches that the batch is split over.

    Args:
      x: (..., B, N, in).
      key: of the layer and the step.
      rows: (B,) int32.
      rate: in [0, 1).

    Source: Srivastava et al. 2014, JMLR 15.
    """
    axis = x.ndim - 3
    shape = x.shape[:axis] + x.shape[axis + 1 :]

    def draw(row: jax.Array) -> jax.Array:
        return jax.random.bernoulli(jax.random.fold_in(key, row), 1 - rate, shape)

    keep = jax.vmap(draw, out_axes=axis)(rows)
    return jnp.where(keep, x / (1 - rate), jnp.zeros((), x.dtype))


def apart(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Returns x W, of tasks' rows one task at a time.

    A product of more rows may sum in another order; so each task's are those of a plain tower,
    bit for bit.

    Args:
      x: (B, N, in), or (T, B, N, in) with a task axis.
      kernel: W (in, out).

    Returns:
      x's shape, with out for in.
    """
    return jnp.stack([x[t] @ kernel for t in range(len(x))]) if x.ndim == 4 else x @ kernel


def column_norm(kernel: jax.Array) -> jax.Array:
    """Returns the Euclidean norm of each output unit of W (..., in, out): (..., out), float32."""
    return jnp.sqrt(jnp.sum(jnp.square(kernel.astype(jnp.float32)), axis=-2))


def dora_gain(
    kernel: jax.Array, base_norm: jax.Array, a: jax.Array, b: jax.Array, magnitude: jax.Array, scale: float
) -> jax.Array:
    """Returns g = m / stop_gradient(||W + s A B||) of each output unit, without the product A B.

    With n = ||W_j||: ||W_j + s (A B)_j|| = n sqrt(1 + (2 s B_j . (A^T W_j) + s^2 B_j^T (A^T A)
    B_j) / n^2), which is exactly n, so g exactly 1, while B is zero and m = n.

    Args:
      kernel: W (in, out).
      base_norm: n (out,) float32, constant while W is frozen.
      a: A (in, R).
      b: B (R, out).
      magnitude: m (out,) float32.
      scale: s.

    Returns:
      (out,) float32.

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

    In this order x W is left bit for bit while A B is zero and g one. The backward pass keeps the
    result alone, of which g's gradient is sum dy y / g.

    Args:
      base: x W (..., out).
      low: s (x A) B (..., out).
      gain: g (out,) float32, nowhere zero.

    Returns:
      (..., out), of the type of base.
    """
    # Before the cast: bfloat16 has no number between 1 and 1.0078.
    excess = (gain - 1).astype(base.dtype)
    return base + (excess * base + gain.astype(base.dtype) * low)


def _rescaled_forward(
    base: jax.Array, low: jax.Array, gain: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    y = rescaled(base, low, gain)
    return y, (y, gain)


def _rescaled_backward(residuals: tuple[jax.Array, ...], dy: jax.Array) -> tuple[jax.Array, ...]:
    y, gain = residuals
    dbase = dy * gain.astype(dy.dtype)
    products = dy.astype(jnp.float32) * y.astype(jnp.float32)
    return dbase, dbase, jnp.sum(products, axis=tuple(range(dy.ndim - 1))) / gain


rescaled.defvjp(_rescaled_forward, _rescaled_backward)


Leaves = Mapping[str, jax.Array]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Formula(abc.ABC):
    """An update of the product x W in the dense layers that a rule chooses.

    A subclass's fields are its numbers. Its leaves lie beside the kernel they adapt, under the
    names that `init` gives them. The bias is added after it.
    """

    @abc.abstractmethod
    def init(self, key: jax.Array, inputs: int, outputs: int) -> Leaves:
        """Returns what is trained in a layer of W (in, out), float32; with it y is x W exactly.

        Args:
          key: a leaf's own random key; `init` is called once a leaf, which takes its value by name.
          inputs: of the layer.
          outputs: of the layer.
        """

    @abc.abstractmethod
    def apply(self, x: jax.Array, kernel: jax.Array, leaves: Leaves) -> jax.Array:
        """Returns y (..., out), of the type of x.

        Args:
          x: (..., in).
          kernel: W (in, out), of the same type.
          leaves: what `init` began, float32.
        """

    @abc.abstractmethod
    def merge(self, kernel: np.ndarray, leaves: Mapping[str, np.ndarray]) -> np.ndarray:
        """Returns the plain kernel (..., in, out) of the same y; leaves are stacked as it is."""

    def products(self, inputs: int, outputs: int) -> int:
        """Returns the operations of the matrix products that `apply` adds to x W, for one row."""
        del inputs, outputs
        return 0
