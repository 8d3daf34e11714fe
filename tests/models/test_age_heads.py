"""Ordinal heads and heads of years against their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from softbio_jax.losses.masked import cross_entropy
from softbio_jax.models import age_heads
from softbio_jax.models.config import vision_config
from softbio_jax.models.forward import classify, classify_in_training
from softbio_jax.models.multitask import HeadConfig, MultitaskModel, by_class
from softbio_jax.tasks import AGE, AGE_SPANS, GENDER, NUM_YEARS

RNG = np.random.default_rng(0)


def test_the_spans_are_those_of_the_classes():
    assert [first for first, _ in AGE_SPANS[1:]] == [end for _, end in AGE_SPANS[:-1]]
    for name, (first, end) in zip(AGE.classes[:-1], AGE_SPANS[:-1], strict=True):
        assert name == f"{first}-{end - 1}"
    assert AGE.classes[-1] == f"{AGE_SPANS[-1][0]}+" and AGE_SPANS[0][0] == 0


def test_the_ordinal_head_is_a_chain_of_decisions():
    logits = RNG.standard_normal((5, 8)) * 2
    further = 1 / (1 + np.exp(-logits))
    wanted = [[np.prod(f[:k]) * (1 - f[k] if k < 8 else 1) for k in range(9)] for f in further]
    found = np.exp(age_heads.ordinal_log_probabilities(jnp.asarray(logits, jnp.float32)))
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-6)


def test_its_cross_entropy_is_the_sum_of_corns_binary_ones():
    logits = jnp.asarray(RNG.standard_normal((50, 8)) * 2, jnp.float32)
    labels = RNG.integers(0, 9, 50)
    tasks = np.arange(8)
    reached, further = labels[:, None] >= tasks, (labels[:, None] > tasks).astype(np.float32)
    binary = np.where(reached, optax.sigmoid_binary_cross_entropy(logits, further), 0).sum(axis=1)
    found = cross_entropy(age_heads.ordinal_log_probabilities(logits), labels, np.ones(50, bool))
    np.testing.assert_allclose(found, binary, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scale", [1, 1e3])
def test_extreme_ordinal_logits_have_finite_gradients(scale):
    def loss(logits):
        return cross_entropy(age_heads.ordinal_log_probabilities(logits), labels, labels >= 0).sum()

    labels = RNG.integers(0, 9, 20)
    logits = jnp.asarray(RNG.standard_normal((20, 8)) * scale, jnp.float32)
    assert np.isfinite(jax.grad(loss)(logits)).all()


def test_classes_are_sums_of_years_and_the_expectation_their_mean():
    logits = jnp.asarray(RNG.standard_normal((4, NUM_YEARS)) * 3, jnp.float32)
    p = np.asarray(jax.nn.softmax(logits), np.float64)
    sums = np.stack([p[:, first:end].sum(axis=1) for first, end in AGE_SPANS], axis=1)
    np.testing.assert_allclose(jax.nn.softmax(age_heads.classes_of_years(logits)), sums, rtol=1e-5)
    np.testing.assert_allclose(age_heads.expected_years(logits), p @ np.arange(101), rtol=1e-5)


def model(age):
    head = HeadConfig(kind="linear", batch_norm=False, dropout=0.0, age=age)
    return MultitaskModel(vision_config("tiny-test"), tasks=(AGE, GENDER), head=head)


@pytest.mark.parametrize(
    ("age", "outputs", "in_training"), [("classes", 9, 9), ("ordinal", 8, 9), ("years", 101, 101)]
)
def test_every_head_gives_nine_logits_of_age(age, outputs, in_training):
    one = model(age)
    size = one.config.patch_size
    variables = one.init(jax.random.key(0), jnp.zeros((1, size, size, 3)))
    assert variables["params"]["heads"]["age"]["dense_out"]["bias"].shape == (outputs,)
    assert variables["params"]["heads"]["gender"]["dense_out"]["bias"].shape == (2,)
    features = dict.fromkeys(
        ("age", "gender"), jnp.asarray(RNG.standard_normal((3, one.config.width)), jnp.float32)
    )
    logits = classify(one, variables, features)
    assert {task: x.shape for task, x in logits.items()} == {"age": (3, 9), "gender": (3, 2)}
    trained, _ = classify_in_training(one, variables, features, jax.random.key(1))
    assert trained["age"].shape == (3, in_training)
    np.testing.assert_allclose(by_class(trained)["age"], logits["age"], rtol=1e-6)
    if age == "years":
        years = one.apply(variables, features, method="expected_years")
        np.testing.assert_allclose(years, jax.nn.softmax(trained["age"]) @ np.arange(101.0), rtol=1e-5)
