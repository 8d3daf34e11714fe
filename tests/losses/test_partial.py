"""Losses of sets, votes and noisy classes against brute force and the ordinary cross-entropy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from softbio_jax.losses import partial
from softbio_jax.losses.masked import cross_entropy, masked_mean
from softbio_jax.runs.step import task_losses
from softbio_jax.tasks import AGE, AGE_SPANS, NUM_YEARS

RNG = np.random.default_rng(0)
LOGITS = (3 * RNG.standard_normal((64, 9))).astype(np.float32)
LABELS = RNG.integers(0, 9, 64)
EVERY = np.ones(64, bool)
SETS = (RNG.random((64, 9)) < 0.4).astype(np.float32)
SETS[np.arange(64), LABELS] = 1


def probabilities(logits):
    values = np.exp(np.float64(logits) - np.max(logits, axis=1, keepdims=True))
    return values / values.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("scale", [1, 1e3])
def test_a_set_of_one_class_is_the_cross_entropy_to_the_bit(compiled, scale):
    one = np.eye(9, dtype=np.float32)[LABELS]
    mask = np.arange(64) % 3 > 0

    def of_set(logits):
        return partial.set_likelihood(logits, one, mask)

    def of_class(logits):
        return cross_entropy(logits, LABELS, mask)

    def of_votes(logits):
        return partial.soft_cross_entropy(logits, one, mask)

    wrap = jax.jit if compiled else lambda f: f
    logits = jnp.asarray(LOGITS * scale)
    for other in (of_set, of_votes):
        np.testing.assert_array_equal(wrap(other)(logits), wrap(of_class)(logits))
    gradients = [wrap(jax.grad(lambda x, f=f: f(x).sum()))(logits) for f in (of_set, of_class)]
    # Compiled, p - [c = label] is fused; jax 0.7.2 then differs by one rounding of p <= 1.
    one_rounding = np.finfo(np.float32).epsneg if compiled else 0
    np.testing.assert_allclose(*gradients, rtol=0, atol=one_rounding)


def test_the_likelihood_of_a_set_is_the_sum_of_its_classes():
    wanted = [
        -np.log(sum(p[c] for c in range(9) if w[c])) for p, w in zip(probabilities(LOGITS), SETS, strict=True)
    ]
    np.testing.assert_allclose(partial.set_likelihood(LOGITS, SETS, EVERY), wanted, atol=2e-6)


def test_noise_is_the_marginal_over_the_true_class():
    noise = RNG.dirichlet(np.ones(9), size=9)  # P(label | true)
    weights = noise[:, LABELS].T.astype(np.float32)
    wanted = -np.log((probabilities(LOGITS) @ noise)[np.arange(64), LABELS])
    np.testing.assert_allclose(partial.set_likelihood(LOGITS, weights, EVERY), wanted, rtol=2e-5)


@pytest.mark.parametrize("scale", [1, 1e2, 1e4])
def test_gradients_are_finite_at_empty_full_and_any_set(scale):
    sets = SETS.copy()
    sets[0], sets[1] = 0, 1

    def loss(logits):
        return partial.set_likelihood(logits, sets, EVERY).sum()

    gradient = np.asarray(jax.grad(loss)(jnp.asarray(LOGITS * scale)))
    assert np.isfinite(gradient).all()
    assert not gradient[:2].any()
    assert not np.asarray(partial.set_likelihood(LOGITS * scale, sets, EVERY))[:2].any()
    assert gradient[2:].any()


def test_the_gradient_is_the_difference_of_the_two_posteriors():
    p = probabilities(LOGITS)
    inside = p * SETS / (p * SETS).sum(axis=1, keepdims=True)
    gradient = jax.grad(lambda x: partial.set_likelihood(x, SETS, EVERY).sum())(jnp.asarray(LOGITS))
    np.testing.assert_allclose(gradient, p - inside, atol=2e-6)


def test_votes_and_smoothing_are_cross_entropies_of_distributions():
    votes = RNG.dirichlet(np.ones(9), size=64).astype(np.float32)
    log_p = np.log(probabilities(LOGITS))
    values = partial.soft_cross_entropy(LOGITS, votes, EVERY)
    np.testing.assert_allclose(values, -(votes * log_p).sum(axis=1), rtol=1e-5)
    mixed = 0.8 * votes + 0.2 / 9
    smooth = partial.smoothed(values, LOGITS, EVERY, 0.2)
    np.testing.assert_allclose(smooth, -(mixed * log_p).sum(axis=1), rtol=1e-5)
    assert not np.asarray(partial.smoothed(0 * values, LOGITS, ~EVERY, 0.2)).any()


def batch(weights, mask=EVERY):
    return {"mask/age": mask, "labels/age": np.where(mask, 0, -1), "target/age": weights}


def test_years_enter_a_head_of_classes_as_the_classes_that_they_touch():
    weights = np.zeros((64, NUM_YEARS), np.float32)
    weights[:, 4:20] = 1  # 3-9 and 10-19
    p = probabilities(LOGITS)
    found = task_losses({AGE.name: jnp.asarray(LOGITS)}, batch(weights), ["age"])[AGE.name]
    np.testing.assert_allclose(found.value, -np.log(p[:, 1] + p[:, 2]).mean(), rtol=1e-5)


def test_years_enter_a_head_of_years_exactly():
    logits = RNG.standard_normal((64, NUM_YEARS)).astype(np.float32)
    weights = np.zeros((64, NUM_YEARS), np.float32)
    weights[:, 4:20] = 1
    wanted = -np.log(probabilities(logits)[:, 4:20].sum(axis=1)).mean()
    found = task_losses({AGE.name: jnp.asarray(logits)}, batch(weights), ["age"])[AGE.name]
    np.testing.assert_allclose(found.value, wanted, rtol=1e-5)
    hard = {"mask/age": EVERY, "labels/age": LABELS}
    spans = [AGE_SPANS[label] for label in LABELS]
    sums = [p[a:b].sum() for p, (a, b) in zip(probabilities(logits), spans, strict=True)]
    found = task_losses({AGE.name: jnp.asarray(logits)}, hard, ["age"])[AGE.name]
    np.testing.assert_allclose(found.value, -np.log(sums).mean(), rtol=1e-5)


def test_a_set_that_says_nothing_to_the_head_does_not_count():
    weights = np.zeros((64, NUM_YEARS), np.float32)
    weights[:32, 2:80] = 1  # touches all nine classes
    weights[32:, 25] = 1
    found = task_losses({AGE.name: jnp.asarray(LOGITS)}, batch(weights), ["age"])[AGE.name]
    assert float(found.count) == 32
    np.testing.assert_allclose(found.value, -np.log(probabilities(LOGITS)[32:, 3]).mean(), rtol=1e-5)
    years = {AGE.name: jnp.zeros((64, NUM_YEARS))}
    assert float(task_losses(years, batch(weights), ["age"])[AGE.name].count) == 64  # finer bins


def test_means_are_those_of_the_global_batch():
    """Eight devices, of which some have no label, give the loss and gradient of one."""
    mask = np.zeros(64, bool)
    mask[[0, 1, 2, 9, 40]] = True

    def mean(logits, weights, mask):
        return masked_mean(partial.set_likelihood(logits, weights, mask), mask).value

    both = jax.jit(jax.value_and_grad(mean))
    whole = both(jnp.asarray(LOGITS), SETS, mask)
    mesh = Mesh(np.array(jax.devices()), ("data",))
    assert mesh.size == 8
    rows = NamedSharding(mesh, PartitionSpec("data"))
    parts = both(*(jax.device_put(x, rows) for x in (LOGITS, SETS, mask)))
    for one, other in zip(jax.tree.leaves(whole), jax.tree.leaves(parts), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-8)
