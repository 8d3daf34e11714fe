"""A pass over test sets of odd sizes does not depend on how many devices share it."""

import jax
import numpy as np
import pytest

from softbio_jax.evaluation.metrics import classification
from softbio_jax.runs.session import Session
from tests.runs.tiny import config_on, run_of


@pytest.fixture(scope="module")
def passes(data_root):
    run, data = run_of(config_on(data_root))
    eight, one = Session(run), Session(run, devices=jax.devices()[:1])
    assert (eight.mesh.size, one.mesh.size) == (8, 1)
    return data, eight, one


@pytest.mark.parametrize("size", [1, 5, 15])
def test_every_count_is_that_of_one_device(passes, size):
    data, eight, one = passes
    for whole in data.test:
        dataset = whole.take(np.arange(size))
        shared, alone = eight.predict(dataset), one.predict(dataset)
        for task, labels in alone.labels.items():
            np.testing.assert_array_equal(shared.labels[task], labels)
            np.testing.assert_allclose(shared.logits[task], alone.logits[task], atol=1e-5)
            known = labels >= 0
            counts = [
                classification.confusion_counts(
                    labels[known], outputs.logits[task][known].argmax(axis=1), outputs.logits[task].shape[1]
                )
                for outputs in (shared, alone)
            ]
            np.testing.assert_array_equal(*counts)
            assert counts[0].sum() == known.sum()
