"""The exact GELU and its slope, on the CPU and elsewhere; the tanh formula."""

import math

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from softbio_jax.models.elementwise import gelu, gelu_tanh

X = np.linspace(-14, 14, 100_001, dtype=np.float32)
_erfc = np.vectorize(math.erfc, otypes=[np.float64])


def truth(x):
    """Value and slope in float64."""
    x = np.float64(x)
    below = _erfc(-x / math.sqrt(2)) / 2
    return x * below, below + x * np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)


def both(x):
    y, pull = jax.vjp(gelu, x)
    return y, pull(jnp.ones_like(y))[0]


def test_within_float32s_own_rounding():
    """6e-7 from the formula, one unit in the last place of numbers from 4 to 8."""
    found = jax.jit(both)(X)
    for ours, wanted in zip(found, truth(X), strict=True):
        assert np.abs(ours - wanted).max() <= 6e-7
    np.testing.assert_allclose(found[0], jax.nn.gelu(X, approximate=False), rtol=0, atol=6e-7)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_the_tanh_formula_and_its_slope(dtype):
    x = np.float64(X.astype(dtype))
    inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
    slope = math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * x**2) / np.cosh(np.clip(inner, -300, 300)) ** 2
    wanted = x * (1 + np.tanh(inner)) / 2, (1 + np.tanh(inner)) / 2 + x * slope / 2
    y, pull = jax.vjp(jax.jit(gelu_tanh), jnp.asarray(x, dtype))
    rounding = float(jnp.finfo(dtype).eps)  # once
    for ours, theirs in zip((y, pull(jnp.ones_like(y))[0]), wanted, strict=True):
        np.testing.assert_allclose(np.float64(ours), theirs, rtol=rounding, atol=1e-5)
    if dtype == jnp.float32:
        assert np.abs(y - truth(X)[0]).max() > 1e-4  # it is not the exact one


def test_the_lower_tail_keeps_its_digits():
    x = np.linspace(-9, -2, 10_001, dtype=np.float32)
    # x (1 + erf) / 2 in float32 has none left below -6.
    np.testing.assert_allclose(jax.jit(gelu)(x), truth(x)[0], rtol=1e-4, atol=0)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_of_16_bits_it_is_rounded_once(dtype):
    x = X.astype(dtype)
    y, slope = jax.jit(both)(x)
    assert y.dtype == slope.dtype == dtype
    for ours, wanted in zip((y, slope), truth(x.astype(np.float32)), strict=True):
        np.testing.assert_allclose(np.float32(ours), wanted, rtol=float(jnp.finfo(dtype).eps), atol=1e-6)


@pytest.mark.parametrize("x", [np.inf, np.nan, 0.0, -0.0, 1e30, -1e30])
def test_of_extreme_numbers_it_is_the_library_s(x):
    ours, wanted = (jax.jit(f)(np.float32(x)) for f in (gelu, lambda x: jax.nn.gelu(x, approximate=False)))
    np.testing.assert_array_equal(ours, wanted)


def test_elsewhere_it_is_the_library_s():
    x = jax.ShapeDtypeStruct((4, 8), jnp.float32)
    exported = {
        platform: str(jax.export.export(jax.jit(gelu), platforms=[platform])(x).mlir_module())
        for platform in ("cpu", "tpu", "cuda")
    }
    assert ["erfc" in exported[platform] for platform in exported] == [False, True, True]
