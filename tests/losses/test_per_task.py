import jax
import jax.numpy as jnp
import numpy as np

from softbio_jax.losses.masked import cross_entropy, masked_mean
from softbio_jax.tasks import MISSING

LOGITS = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)
LABELS = np.array([2, MISSING, 0, MISSING, 3])
MASK = LABELS != MISSING


def log_softmax(x):
    x = np.float64(x)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def test_the_mean_runs_over_the_labelled_examples_alone():
    wanted = -np.mean([log_softmax(LOGITS)[i, LABELS[i]] for i in (0, 2, 4)])
    mean = masked_mean(cross_entropy(LOGITS, LABELS, MASK), MASK)
    np.testing.assert_allclose(mean.value, wanted, rtol=1e-6)
    assert float(mean.count) == 3 and bool(mean.present)


def test_gradients_of_unlabelled_examples_are_zero_and_never_nan():
    def loss(logits):
        return masked_mean(cross_entropy(logits, LABELS, MASK), MASK).value

    for logits in (LOGITS, LOGITS * 1e4):
        gradient = jax.grad(loss)(jnp.asarray(logits))
        assert np.isfinite(gradient).all()
        assert not np.any(np.asarray(gradient)[~MASK])
    wanted = (np.exp(log_softmax(LOGITS)) - np.eye(4)[np.where(MASK, LABELS, 0)]) * MASK[:, None]
    np.testing.assert_allclose(jax.grad(loss)(jnp.asarray(LOGITS)), wanted / 3, atol=1e-6)


def test_a_batch_without_a_label_has_loss_zero_and_no_gradient():
    nobody = np.zeros(5, bool)

    def loss(logits):
        return masked_mean(cross_entropy(logits, LABELS, nobody), nobody).value

    value, gradient = jax.value_and_grad(loss)(jnp.asarray(LOGITS))
    assert float(value) == 0 and not np.any(gradient)
    assert not bool(masked_mean(jnp.zeros(5), nobody).present)


def test_means_over_shards_are_those_of_the_whole_batch():
    mask = np.array([True, True, True, False, False, True])
    values = np.arange(6, dtype=np.float32)
    parts = [masked_mean(values[i : i + 2], mask[i : i + 2]) for i in (0, 2, 4)]
    whole = masked_mean(values, mask)
    assert float(sum(p.total for p in parts)) == float(whole.total)
    np.testing.assert_allclose(whole.value, values[mask].mean())


def test_half_precision_logits_are_reduced_in_float32():
    values = cross_entropy(jnp.asarray(LOGITS, jnp.bfloat16), LABELS, MASK)
    assert values.dtype == jnp.float32
