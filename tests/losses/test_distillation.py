import jax
import jax.numpy as jnp
import numpy as np
import pytest

from softbio_jax.losses.distillation import Distillation, distance, divergence, mean_feature
from softbio_jax.losses.masked import cross_entropy, masked_mean

GENERATOR = np.random.default_rng(7)
STUDENT, TEACHER = (3 * GENERATOR.standard_normal((6, 5)).astype(np.float32) for _ in range(2))
TEMPERATURES = (0.5, 1.0, 2.0, 20.0)


def softmax(x):
    powers = np.exp(np.float64(x) - np.float64(x).max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def brute_force(student, teacher, temperature):
    """T^2 KL, one class of one example at a time, in float64."""
    p, q = softmax(np.float64(teacher) / temperature), softmax(np.float64(student) / temperature)
    values = []
    for own, taught in zip(q, p, strict=True):
        values.append(
            temperature**2 * sum(b * (np.log(b) - np.log(a)) for a, b in zip(own, taught, strict=True))
        )
    return np.array(values)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_the_divergence_is_the_brute_force_one(temperature):
    found = divergence(STUDENT, TEACHER, temperature)
    # The logarithms are rounded in float32, and multiplied by T^2.
    np.testing.assert_allclose(
        found, brute_force(STUDENT, TEACHER, temperature), rtol=1e-5, atol=3e-7 * temperature**2
    )


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_its_gradient_is_t_times_the_difference_of_probabilities(temperature):
    gradient = jax.grad(lambda z: divergence(z, TEACHER, temperature).sum())(jnp.asarray(STUDENT))
    expected = temperature * (softmax(STUDENT / temperature) - softmax(TEACHER / temperature))
    np.testing.assert_allclose(gradient, expected, atol=1e-6 * max(1, temperature))


def test_at_a_high_temperature_centred_logits_are_matched():
    """lim T^2 KL = |(z - mean z) - (v - mean v)|^2 / (2 C), section 2.1 of Hinton et al. 2015."""
    small = 0.1 * STUDENT, 0.1 * TEACHER
    student, teacher = (np.float64(z) - np.float64(z).mean(-1, keepdims=True) for z in small)
    expected = np.square(student - teacher).sum(-1) / (2 * STUDENT.shape[1])
    np.testing.assert_allclose(divergence(*small, 10.0), expected, rtol=0.02)
    assert np.abs(divergence(*small, 0.1) / expected - 1).max() > 0.2


def test_at_temperature_1_a_certain_teacher_is_a_label():
    labels = np.arange(6) % 5
    certain = 1e4 * np.eye(5, dtype=np.float32)[labels]
    expected = cross_entropy(STUDENT, labels, np.ones(6, bool))
    np.testing.assert_allclose(divergence(STUDENT, certain, 1.0), expected, rtol=1e-6)
    assert np.isfinite(jax.grad(lambda z: divergence(z, certain, 1.0).sum())(jnp.asarray(STUDENT))).all()


def test_the_same_outputs_have_none_and_constants_do_not_count():
    np.testing.assert_allclose(divergence(TEACHER + 5, TEACHER - 2, 3.0), 0, atol=1e-5)


def _batch(seen):
    return {"teacher/seen": seen, "teacher/logits/age": TEACHER}


def _mixed(logits, labels, seen, weight=0.25, temperature=2.0):
    config = Distillation(weight=weight, temperature=temperature, feature="none", feature_weight=1.0)
    mask = labels >= 0
    hard = {"age": masked_mean(cross_entropy(logits, labels, mask), mask)}
    mixed, metrics = config.losses(hard, {"age": logits}, _batch(seen))
    return mixed["age"], metrics


LABELS = np.array([2, -1, 0, -1, 3, -1])
SEEN = np.array([1, 1, 1, 1, 0, 0], bool)


def test_each_term_is_the_mean_over_its_own_examples():
    mixed, metrics = _mixed(STUDENT, LABELS, SEEN)
    hard = -np.mean([np.log(softmax(STUDENT)[i, LABELS[i]]) for i in (0, 2, 4)])
    soft = brute_force(STUDENT, TEACHER, 2.0)[:4].mean()
    assert float(mixed.value) == pytest.approx(0.75 * hard + 0.25 * soft, rel=1e-5)
    assert float(metrics["labels/age"]) == pytest.approx(hard, rel=1e-5)
    assert float(metrics["teacher/age"]) == pytest.approx(soft, rel=1e-5)
    assert float(metrics["count/age"]) == 3
    agree = (STUDENT.argmax(-1) == TEACHER.argmax(-1))[:4]
    assert float(metrics["agreement/age"]) == pytest.approx(agree.mean())


def test_unlabelled_examples_learn_and_unseen_ones_do_not():
    gradient = jax.grad(lambda z: _mixed(z, np.full(6, -1), SEEN)[0].value)(jnp.asarray(STUDENT))
    expected = 0.25 * 2 * (softmax(STUDENT / 2) - softmax(TEACHER / 2)) / 4
    np.testing.assert_allclose(gradient[:4], expected[:4], atol=1e-6)
    assert not np.any(gradient[4:])


def test_a_task_is_absent_only_without_a_label_and_a_teacher():
    nobody = np.zeros(6, bool)
    assert bool(_mixed(STUDENT, np.full(6, -1), SEEN)[0].present)
    assert bool(_mixed(STUDENT, LABELS, nobody)[0].present)
    absent, _ = _mixed(STUDENT, np.full(6, -1), nobody)
    assert not bool(absent.present) and float(absent.value) == 0


def test_the_distances_of_features():
    own, taught = np.float64(STUDENT), np.float64(TEACHER)
    cosine = 1 - (own * taught).sum(-1) / np.linalg.norm(own, axis=-1) / np.linalg.norm(taught, axis=-1)
    np.testing.assert_allclose(distance(STUDENT, TEACHER, "cosine"), cosine, atol=1e-6)
    np.testing.assert_allclose(distance(STUDENT, TEACHER, "mse"), np.square(own - taught).mean(-1), rtol=1e-6)
    nothing = jnp.zeros((1, 5))
    assert np.isfinite(jax.grad(lambda x: distance(x, TEACHER[:1], "cosine").sum())(nothing)).all()


def test_the_feature_term_is_of_the_projected_feature_over_the_seen_examples():
    kernel = GENERATOR.standard_normal((5, 3)).astype(np.float32)
    config = Distillation(weight=0.5, temperature=1.0, feature="mse", feature_weight=0.5)
    batch = {"teacher/seen": SEEN, "teacher/feature": TEACHER[:, :3]}
    found = config.feature_term({"age": STUDENT}, {"kernel": kernel}, batch)
    expected = 0.5 * np.square(np.float64(STUDENT) @ kernel - TEACHER[:, :3])[:4].mean()
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_features_per_task_count_by_their_mean():
    np.testing.assert_array_equal(mean_feature({"age": STUDENT, "gender": STUDENT}), STUDENT)
    np.testing.assert_allclose(
        mean_feature({"age": STUDENT, "gender": TEACHER}), (STUDENT + TEACHER) / 2, rtol=1e-6
    )
