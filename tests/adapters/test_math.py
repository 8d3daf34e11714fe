import jax
import jax.numpy as jnp
import numpy as np
import pytest

from softbio_jax.adapters import math


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    draw = lambda *shape: rng.standard_normal(shape).astype(np.float32)  # noqa: E731
    return {"x": draw(2, 5, 12), "w": draw(12, 8), "a": draw(12, 3), "b": draw(3, 8)}


def test_low_rank_is_s_x_a_b(arrays):
    x, a, b = arrays["x"], arrays["a"], arrays["b"]
    np.testing.assert_allclose(math.low_rank(x, a, b, 0.5), 0.5 * x @ (a @ b), atol=1e-5)


def test_low_rank_gradients_are_those_of_autodiff(arrays):
    def written(x, a, b):
        return jnp.sum(jnp.sin(math.low_rank(x, a, b, 0.7)))

    def automatic(x, a, b):
        return jnp.sum(jnp.sin(0.7 * ((x @ a) @ b)))

    args = arrays["x"], arrays["a"], arrays["b"]
    for ours, wanted in zip(
        jax.grad(written, (0, 1, 2))(*args), jax.grad(automatic, (0, 1, 2))(*args), strict=True
    ):
        np.testing.assert_allclose(ours, wanted, rtol=1e-5, atol=1e-5)


def test_low_rank_of_a_single_row(arrays):
    gradient = jax.grad(lambda x: math.low_rank(x, arrays["a"], arrays["b"], 2.0).sum())
    x = arrays["x"][0, 0]
    np.testing.assert_allclose(gradient(x), 2.0 * (arrays["a"] @ arrays["b"]).sum(-1), atol=1e-5)


@pytest.mark.parametrize("scale", [0.25, 1.0, 8.0])
def test_dora_gain_is_magnitude_over_the_norm_of_the_sum(arrays, scale):
    w, a, b = (arrays[k].astype(np.float64) for k in "wab")
    magnitude = np.linspace(0.5, 2.0, 8)
    wanted = magnitude / np.linalg.norm(w + scale * a @ b, axis=0)
    norm = math.column_norm(arrays["w"])
    ours = math.dora_gain(arrays["w"], norm, arrays["a"], arrays["b"], magnitude, scale)
    np.testing.assert_allclose(ours, wanted, rtol=2e-6)


def test_dora_gain_is_exactly_one_while_b_is_zero(arrays):
    norm = math.column_norm(arrays["w"])
    b = np.zeros((3, 8), np.float32)
    gain = jax.jit(math.dora_gain)(arrays["w"], norm, arrays["a"], b, norm, 1.0)
    np.testing.assert_array_equal(gain, np.ones(8, np.float32))


def test_dora_gain_stops_the_gradient_at_the_norm(arrays):
    norm = math.column_norm(arrays["w"])

    def total(a, b, magnitude):
        return jnp.sum(math.dora_gain(arrays["w"], norm, a, b, magnitude, 1.0))

    da, db, dm = jax.grad(total, (0, 1, 2))(arrays["a"], arrays["b"], norm)
    assert not np.any(da) and not np.any(db)
    np.testing.assert_allclose(
        dm, 1 / np.linalg.norm(arrays["w"] + arrays["a"] @ arrays["b"], axis=0), rtol=1e-5
    )


@pytest.mark.parametrize("stacked", [False, True])
def test_task_low_rank_has_an_a_and_b_a_task_and_projection(stacked):
    rng = np.random.default_rng(1)
    tasks, projections, width, rank = 3, 2, 6, 2
    a = rng.standard_normal((tasks, projections, width, rank)).astype(np.float32)
    b = rng.standard_normal((tasks, projections, rank, 4)).astype(np.float32)
    x = rng.standard_normal((tasks, 2, 5, width)).astype(np.float32)
    ours = math.task_low_rank(x if stacked else x[0], a, b, 0.5)
    for t in range(tasks):
        read = x[t] if stacked else x[0]
        wanted = np.concatenate([0.5 * read @ a[t, p] @ b[t, p] for p in range(projections)], -1)
        np.testing.assert_allclose(ours[t], wanted, atol=1e-5)


def test_rescaled_is_the_gain_times_the_sum_with_the_gradients_of_autodiff(arrays):
    base = jnp.asarray(arrays["x"] @ arrays["w"])
    low, gain = jnp.sin(base), jnp.linspace(0.2, 1.8, 8)

    def total(function):
        return lambda *args: jnp.sum(jnp.sin(function(*args)))

    plain = lambda base, low, gain: gain * (base + low)  # noqa: E731
    np.testing.assert_allclose(math.rescaled(base, low, gain), plain(base, low, gain), rtol=2e-5)
    for ours, wanted in zip(
        jax.grad(total(math.rescaled), (0, 1, 2))(base, low, gain),
        jax.grad(total(plain), (0, 1, 2))(base, low, gain),
        strict=True,
    ):
        np.testing.assert_allclose(ours, wanted, rtol=1e-4, atol=1e-5)


def test_rescaled_leaves_the_base_bit_for_bit_at_the_start(arrays):
    base = jnp.asarray(arrays["x"] @ arrays["w"])
    ours = jax.jit(math.rescaled)(base, jnp.zeros_like(base), jnp.ones(8))
    np.testing.assert_array_equal(ours, base)
