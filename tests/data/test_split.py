import dataclasses

import numpy as np
import pytest

from softbio_jax.data import sources
from softbio_jax.errors import UserError
from softbio_jax.tasks import MISSING


@pytest.mark.parametrize(
    ("size", "val"), [(86_744, 17_349), (84_190, 16_838), (28_000, 5_600), (11_519, 2_304)]
)
def test_sizes_are_the_thesis(size, val):
    train_rows, val_rows = sources.train_val(size, seed=2025)
    assert (len(train_rows), len(val_rows)) == (size - val, val)


def test_parts_are_disjoint_whole_and_seeded():
    train_rows, val_rows = sources.train_val(103, seed=1)
    np.testing.assert_array_equal(np.sort(np.concatenate([train_rows, val_rows])), np.arange(103))
    again = sources.train_val(103, seed=1)[1]
    np.testing.assert_array_equal(val_rows, again)
    assert (val_rows != sources.train_val(103, seed=2)[1]).any()


@pytest.mark.parametrize(("size", "fraction"), [(10, 0.0), (10, 1.0), (2, 0.2), (0, 0.2)])
def test_empty_parts_are_refused(size, fraction):
    with pytest.raises(UserError, match="a split without rows"):
        sources.train_val(size, seed=0, val_fraction=fraction)


def test_each_set_is_split_on_its_own(faces, emotions):
    train, val = sources.split_each([faces, emotions], seed=1, val_fraction=0.2)
    assert [len(part) for part in train + val] == [10, 5, 2, 1]
    together = np.concatenate([train[0].columns["id"], val[0].columns["id"]])
    assert sorted(together) == sorted(faces.columns["id"])


def test_without_a_share_the_sets_stay_whole(faces, emotions):
    train, val = sources.split_each([faces, emotions], seed=1, val_fraction=0.0)
    assert [part.fingerprint for part in train] == [faces.fingerprint, emotions.fingerprint]
    assert val == []


def test_a_set_without_labels_is_all_training(faces, emotions):
    empty = {task: np.full(len(emotions), MISSING, np.int32) for task in emotions.labels}
    for labels in ({}, empty):
        plain = dataclasses.replace(emotions, labels=labels)
        train, val = sources.split_each([plain, faces], seed=1, val_fraction=0.2)
        assert train[0].fingerprint == plain.fingerprint
        assert [len(part) for part in train + val] == [len(plain), 10, 2]
