"""The layer norm: its formula, its gradient, its two ways to a mean."""

import flax.linen as nn
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from softbio_jax.models import elementwise
from softbio_jax.models.elementwise import LayerNorm, row_mean
from tests.compiling import OLDER_XLA


@pytest.fixture
def x():
    return 3 + np.random.default_rng(0).standard_normal((2, 3, 5, 48)).astype(np.float32)


def drawn(x):
    rng = np.random.default_rng(1)
    return {name: rng.standard_normal(x.shape[-1]).astype(np.float32) for name in ("scale", "bias")}


@pytest.mark.parametrize("rows", ["task axis", "plain"])
def test_it_is_flax_norm_with_torchs_epsilon(x, rows):
    x = x if rows == "task axis" else x[0]
    kept = nn.LayerNorm(epsilon=1e-5, use_fast_variance=False)
    variables = {"params": drawn(x)}
    loss = lambda module: lambda v, x: jnp.sum(jnp.sin(module.apply(v, x)))  # noqa: E731
    # The mean sums 48 numbers near 3, in an order that XLA chooses: with jax 0.7.2 it is 3e-6 from the
    # formula in float64, with 0.10 1e-6. Another epsilon would be 1e-5 away.
    np.testing.assert_allclose(
        LayerNorm().apply(variables, x), kept.apply(variables, x), atol=4e-6 if OLDER_XLA else 2e-6
    )
    ours, wanted = (jax.jit(jax.grad(loss(m), (0, 1)))(variables, x) for m in (LayerNorm(), kept))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), ours, wanted)


def test_bfloat16_rows_are_normed_in_float32(x):
    y = LayerNorm().apply({"params": drawn(x)}, x.astype(jnp.bfloat16))
    assert y.dtype == jnp.float32


def test_both_ways_give_the_mean(x):
    wanted = np.float64(x).mean(-1, keepdims=True)
    for way in (elementwise._by_sum, elementwise._by_product, row_mean):
        np.testing.assert_allclose(way(x), wanted, rtol=1e-6)


def test_other_platforms_sum():
    # One column would waste a matrix unit.
    x = jax.ShapeDtypeStruct((4, 8), jnp.float32)
    exported = {
        platform: str(jax.export.export(jax.jit(row_mean), platforms=[platform])(x).mlir_module())
        for platform in ("cpu", "tpu", "cuda")
    }
    assert "dot_general" in exported["cpu"]
    assert "dot_general" not in exported["tpu"] + exported["cuda"]


def kept_by_the_backward_pass(function, x):
    """How many numbers autodiff holds from the forward pass to the backward."""
    _, pull = jax.vjp(function, x)
    return sum(leaf.size for leaf in jax.tree.leaves(pull) if leaf.shape == x.shape) // x.size


@pytest.mark.parametrize("layer", ["norm", "gelu"])
def test_the_backward_pass_keeps_the_input_alone(x, layer):
    functions = {"norm": lambda x: LayerNorm().apply({"params": drawn(x)}, x), "gelu": elementwise.gelu}
    assert kept_by_the_backward_pass(functions[layer], x) == 1


def test_the_gradient_of_gelu_is_the_exact_one(x):
    wanted = jax.vmap(jax.grad(lambda t: 0.5 * t * (1 + jax.lax.erf(t / jnp.sqrt(2.0)))))
    ours = jax.grad(lambda x: elementwise.gelu(x).sum())(x - 3)
    np.testing.assert_allclose(ours.ravel(), wanted((x - 3).ravel()), atol=1e-6)
