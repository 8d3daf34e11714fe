import jax
import jax.numpy as jnp
import pytest

from softbio_jax.models.flops import matmul_flops


def _flops(function, *shapes):
    return matmul_flops(jax.make_jaxpr(function)(*(jnp.zeros(shape) for shape in shapes)))


def test_a_product_is_two_operations_a_multiply_add():
    assert _flops(lambda a, b: a @ b, (3, 5), (5, 7)) == 2 * 3 * 5 * 7


def test_a_batched_product():
    assert _flops(lambda a, b: jnp.einsum("bij,bjk->bik", a, b), (4, 3, 5), (4, 5, 7)) == (4 * 2 * 3 * 5 * 7)


def test_a_scan_counts_as_often_as_it_runs():
    def function(x, weights):
        return jax.lax.scan(lambda x, w: (x @ w, None), x, weights)[0]

    assert _flops(function, (3, 5), (24, 5, 5)) == 24 * 2 * 3 * 5 * 5


def test_jit_and_remat_are_looked_into_and_computing_again_counts():
    @jax.jit
    def function(x, w):
        return jax.checkpoint(lambda x: jnp.sin(jnp.sin(x @ w) @ w))(x).sum()

    forward = 2 * 2 * 3 * 5 * 5
    assert _flops(function, (3, 5), (5, 5)) == forward
    # The gradient of x: both products once more for the remat, and their transposes.
    assert _flops(jax.grad(function), (3, 5), (5, 5)) in (3 * forward, int(2.5 * forward))


def test_a_convolution():
    def patches(x, w):
        return jax.lax.conv_general_dilated(x, w, (4, 4), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    assert _flops(patches, (2, 8, 8, 3), (4, 4, 3, 16)) == 2 * (2 * 2 * 2 * 16) * (4 * 4 * 3)


@pytest.mark.parametrize("batch", [8, 16])
def test_a_step_grows_with_its_batch(batch):
    def step(w, x):
        return jax.grad(lambda w: ((x @ w) ** 2).sum())(w)

    assert _flops(step, (5, 5), (batch, 5)) == 2 * 2 * batch * 5 * 5


def test_of_a_condition_the_dearest_branch_counts():
    def choose(x):
        return jax.lax.cond(x[0, 0] > 0, lambda x: x @ x, lambda x: x @ x @ x, x)

    assert _flops(choose, (4, 4)) == 2 * 2 * 4**3


def test_where_platforms_differ_the_default_counts():
    def differ(x):
        return jax.lax.platform_dependent(x, cpu=lambda x: x @ x, default=lambda x: x)

    assert _flops(differ, (4, 4)) == 0
