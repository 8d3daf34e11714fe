"""What makes a test set worthless, told before the first step; the rest is in tests/mistakes."""

import dataclasses

import numpy as np
import pytest

from softbio_jax.data.prepare import prepare
from softbio_jax.errors import UserError
from softbio_jax.runs import data as data_lib
from softbio_jax.runs.config import config_from
from softbio_jax.runs.data import open_all
from tests.data.trees import write_image
from tests.runs.tiny import changed


@pytest.mark.parametrize(("shared", "refused"), [(0, False), (1, False), (2, True)])
@pytest.mark.parametrize("val_fraction", [0.0, 0.5])
def test_a_share_of_five_percent(config, tmp_path, shared, refused, val_fraction):
    raw = tmp_path / "raw"
    for split, first in (("train", 0), ("test", 24 - shared)):
        for i in range(24):
            write_image(raw / split / "happy" / f"{i}.png", first + i, kind="PNG")
    prepare.prepare("folder", source=str(raw), out=tmp_path / "mine", task="emotion")
    values = changed(
        config,
        tasks=("emotion",),
        data__root=str(tmp_path),
        data__train=("mine/train",),
        data__test=("mine/test",),
        data__val_fraction=val_fraction,
        train__batch_size=8,
    )
    data = open_all(config_from(values).data)
    if not refused:
        data_lib.check(data, tasks=("emotion",), batch_size=8)
        return
    with pytest.raises(UserError, match=f"found {shared} of 24"):
        data_lib.check(data, tasks=("emotion",), batch_size=8)


@pytest.mark.parametrize(
    ("column", "word", "told"),
    [
        ("years", "97", "an age that contradicts the label"),
        ("years", "old", "not an age or a range of ages"),
        ("age_group", "old", None),  # a table's own column of this name may hold anything
        ("years", "", None),
    ],
)
def test_true_ages_of_a_test_set_are_read_before_the_first_step(config, column, word, told):
    data = open_all(config_from(config).data)
    known = next(item for item in data.test if (item.labels["age"] >= 0).any())
    row = int(np.flatnonzero((known.labels["age"] >= 0) & (known.labels["age"] < 8))[1])
    words = np.where(np.arange(len(known)) == row, word, "")
    other = dataclasses.replace(known, columns=known.columns | {column: words})
    data = dataclasses.replace(data, test=[other])
    if told is None:
        data_lib.check_tests(data, tasks=("age",))
        return
    where = f"data.test: {known.name}/{known.split}:{known.columns['id'][row]} years"
    with pytest.raises(UserError, match=rf"{told}: {where}"):
        data_lib.check_tests(data, tasks=("age",))
    data_lib.check_tests(data, tasks=("gender",))
