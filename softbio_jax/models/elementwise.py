"""What is between products, with backward passes of its own: layer norm and the activations of the MLP."""

import functools
import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from softbio_jax.adapters.math import apart
from softbio_jax.models.config import Activation

# erfc(z) = t P(t) exp(-z^2) with t = 1 / (1 + c z), z >= 0, as in Abramowitz and Stegun 1964, 7.1.26, which
# has five coefficients. These seven minimise the largest error of z erfc(z), 5e-9 before rounding.
_C = 0.475
_P = (0.2689869, 0.25292656, 0.327491613, -0.100943271, 0.577344645, -0.41591982, 0.0901134462)
_FAR = 32.0  # where the tail is 0 in float32


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
    centred, inverse = _standardise(recomputed(x), epsilon)
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


def recomputed(x: jax.Array) -> jax.Array:
    """Returns x for a backward pass to compute again from what the forward pass computed from it.

    On CPUs, where blocks are unrolled, XLA would else merge the two and keep the forward pass' results.
    """
    return jax.lax.platform_dependent(x, cpu=jax.lax.optimization_barrier, default=lambda x: x)


@jax.custom_vjp
def gelu(x: jax.Array) -> jax.Array:
    """Returns the exact GELU x (1 + erf(x / sqrt 2)) / 2 of x (..., D), not jax.nn.gelu's default.

    The backward pass saves only x, where autodiff saves three arrays of the MLP's width. On CPUs both
    passes share one exponential, and differ from jax.nn.gelu by at most 5e-7 in float32.

    Source: Hendrycks and Gimpel 2016, arXiv:1606.08415.
    """
    return jax.lax.platform_dependent(x, cpu=_on_cpu, default=_by_erfc)


def _by_erfc(x: jax.Array) -> jax.Array:
    return jax.nn.gelu(x, approximate=False)


def _gelu_backward(x: jax.Array, dy: jax.Array) -> tuple[jax.Array]:
    return (jax.lax.platform_dependent(x, dy, cpu=_on_cpu_backward, default=_by_erfc_backward),)


def _by_erfc_backward(x: jax.Array, dy: jax.Array) -> jax.Array:
    return jax.vjp(functools.partial(jax.nn.gelu, approximate=False), x)[1](dy)[0]


def _on_cpu(x: jax.Array) -> jax.Array:
    wide = x.astype(jnp.float32)
    above, _ = _upper_tail(wide)
    # Not x (1 + erf) / 2, which cancels below -2 and rounds twice above 2.
    size = jnp.minimum(jnp.abs(wide), _FAR)  # of infinity as well
    return (jnp.maximum(wide, 0) - size * above).astype(x.dtype)


def _on_cpu_backward(x: jax.Array, dy: jax.Array) -> jax.Array:
    wide = recomputed(x).astype(jnp.float32)
    above, bell = _upper_tail(wide)
    below = jnp.where(wide > 0, 1 - above, above)
    slope = below + wide * bell * np.float32(1 / math.sqrt(2 * math.pi))
    return (dy.astype(jnp.float32) * slope).astype(x.dtype)


def _upper_tail(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns (1 - erf(|x| / sqrt 2)) / 2 and exp(-x^2 / 2), float32."""
    t = 1 / (1 + jnp.abs(x) * np.float32(_C * math.sqrt(0.5)))
    bell = jnp.exp(x * x * np.float32(-0.5))
    series = jnp.full_like(t, _P[-1])
    for coefficient in _P[-2::-1]:
        series = series * t + np.float32(coefficient)
    return series * t * (bell * np.float32(0.5)), bell


gelu.defvjp(lambda x: (gelu(x), x), _gelu_backward)


@jax.custom_vjp
def gelu_tanh(x: jax.Array) -> jax.Array:
    """Returns x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2 of x (..., D).

    The backward pass saves only x.

    Source: Hendrycks and Gimpel 2016, arXiv:1606.08415.
    """
    return _by_tanh(x)


def _by_tanh(x: jax.Array) -> jax.Array:
    # Without a power, which is no operation of ONNX' here; of 16 bits it is rounded once.
    wide = x.astype(jnp.float32)
    inner = math.sqrt(2 / math.pi) * (wide + 0.044715 * (wide * wide * wide))
    return (0.5 * wide * (1 + jnp.tanh(inner))).astype(x.dtype)


gelu_tanh.defvjp(lambda x: (gelu_tanh(x), x), lambda x, dy: jax.vjp(_by_tanh, x)[1](dy))


@jax.custom_vjp
def quick_gelu(x: jax.Array) -> jax.Array:
    """Returns x sigmoid(1.702 x) of x (..., D), CLIP's GELU; the backward pass saves only x.

    Source: openai/CLIP `clip/model.py`, `QuickGELU`.
    """
    return _quick_gelu(x)


def _quick_gelu(x: jax.Array) -> jax.Array:
    return x * jax.nn.sigmoid(1.702 * x)


quick_gelu.defvjp(lambda x: (quick_gelu(x), x), lambda x, dy: jax.vjp(_quick_gelu, x)[1](dy))


@jax.custom_vjp
def swiglu(x: jax.Array) -> jax.Array:
    """Returns silu(a) b of x (..., 2 D) with halves a, b: (..., D); the backward pass saves only x.

    Source: Shazeer 2020, arXiv:2002.05202.
    """
    return _swiglu(x)


def _swiglu(x: jax.Array) -> jax.Array:
    gate, value = jnp.split(x, 2, axis=-1)
    return jax.nn.silu(gate) * value


swiglu.defvjp(lambda x: (swiglu(x), x), lambda x, dy: jax.vjp(_swiglu, x)[1](dy))

ACTIVATIONS: dict[Activation, Callable[[jax.Array], jax.Array]] = {
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "quick_gelu": quick_gelu,
    "swiglu": swiglu,
}
