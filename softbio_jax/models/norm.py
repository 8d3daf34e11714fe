"""Layer normalisation in float32, with sums that do not depend on the fusions around them."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from softbio_jax.adapters.math import apart


class LayerNorm(nn.Module):
    """y = (x - mean(x)) / sqrt(var(x) + eps) scale + bias over the last axis, in float32.

    The variance is mean((x - mean)^2), as in torch; scale and bias are (D,).

    Source: Ba et al. 2016, arXiv:1607.06450.
    """

    epsilon: float = 1e-5  # torch's default; flax's is 1e-6

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps x (..., D) to (..., D) float32."""
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:], jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:], jnp.float32)
        return _normalise(x, scale, bias, self.epsilon)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _normalise(x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float) -> jax.Array:
    centred, inverse = _standardise(x, epsilon)
    scale, bias = (jax.lax.broadcast_to_rank(vector, x.ndim) for vector in (scale, bias))
    return centred * (inverse * scale) + bias


def _standardise(x: jax.Array, epsilon: float) -> tuple[jax.Array, jax.Array]:
    """Returns x - mean(x) (..., D) and 1 / sqrt(var(x) + eps) (..., 1), both float32."""
    x = x.astype(jnp.float32)
    centred = x - row_mean(x)
    return centred, jax.lax.rsqrt(row_mean(jnp.square(centred)) + epsilon)


def _normalise_forward(
    x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    # Only x, in its own type: it is live anyway, and the rest is cheap to recompute.
    return _normalise(x, scale, bias, epsilon), (x, scale)


def _normalise_backward(
    epsilon: float, residuals: tuple[jax.Array, ...], dy: jax.Array
) -> tuple[jax.Array, ...]:
    x, scale = residuals
    centred, inverse = _standardise(x, epsilon)
    unit = centred * inverse
    dunit = dy * jax.lax.broadcast_to_rank(scale, x.ndim)
    dx = inverse * (dunit - row_mean(dunit) - unit * row_mean(dunit * unit))
    lead = tuple(range(x.ndim - 1))
    return dx.astype(x.dtype), jnp.sum(dy * unit, lead), jnp.sum(dy, lead)


_normalise.defvjp(_normalise_forward, _normalise_backward)


def row_mean(x: jax.Array) -> jax.Array:
    """Returns the mean over the last axis: x (..., D) float32 to (..., 1).

    On the CPU it is a matrix product. XLA fuses a sum there with the computation of its input,
    which then determines the order of summation: adding a term that is zero would change the
    result, but a fresh adapter must leave an encoder's output bit for bit.
    """
    return _row_mean(x, x.shape[-1])


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _row_mean(x: jax.Array, size: int) -> jax.Array:
    del size  # for the backward pass only
    return jax.lax.platform_dependent(x, cpu=_by_product, default=_by_sum)


def _by_sum(x: jax.Array) -> jax.Array:
    return jnp.mean(x, axis=-1, keepdims=True)


def _by_product(x: jax.Array) -> jax.Array:
    return apart(x, jnp.full((x.shape[-1], 1), 1 / x.shape[-1], jnp.float32))


def _forward(x: jax.Array, size: int) -> tuple[jax.Array, tuple[()]]:
    return _row_mean(x, size), ()


def _backward(size: int, _: tuple[()], dy: jax.Array) -> tuple[jax.Array]:
    return (jnp.broadcast_to(dy / size, (*dy.shape[:-1], size)),)


_row_mean.defvjp(_forward, _backward)
