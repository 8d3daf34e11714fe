"""Predictions reject what would give a wrong metric, and name the row."""

import dataclasses

import numpy as np
import pytest

from softbio_jax.errors import UserError
from softbio_jax.evaluation.predictions import Predictions
from softbio_jax.tasks import MISSING
from tests.evaluation.fixtures import hand_made, random_predictions


def test_labelled_leaves_out_missing_and_tasks_leave_out_unlabelled_tasks():
    everything = random_predictions("set", tasks=("gender", "emotion"), n=20)
    everything = dataclasses.replace(
        everything, labels={**everything.labels, "emotion": np.full(20, MISSING, np.int32)}
    )
    assert list(everything.tasks()) == ["gender"]
    labels, probabilities = everything.labelled("gender")
    assert len(labels) == len(probabilities) == np.sum(everything.labels["gender"] != MISSING)
    assert MISSING not in labels


def test_take_keeps_rows_together():
    everything = random_predictions("set", n=10)
    part = everything.take(np.array([7, 2]), name="part")
    assert part.name == "part"
    assert part.ids.tolist() == [everything.ids[7], everything.ids[2]]
    np.testing.assert_array_equal(part.probabilities["age"][1], everything.probabilities["age"][2])
    assert part.audit["race"].tolist() == [everything.audit["race"][7], everything.audit["race"][2]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ids": ["a", "b", "a", "b"]}, r"duplicate id.*rows 3, 4.*'a'"),
        ({"ids": ["a", "", "c", "d"]}, r"missing id.*row 2"),
        ({"ids": []}, "empty test set"),
        ({"labels": {"gender": [0, 1, 2, -2]}}, r"unknown gender label.*rows 3, 4.*found 2"),
        ({"labels": {"race": [0, 1, 1, 0]}}, "unknown task.*'race'"),
        ({"labels": {"gender": [0, 1, 1]}}, "labels of another shape"),
        (
            {"probabilities": {"gender": [[1, 0], [0.5, 0.4], [0, 1], [1.5, -0.5]]}},
            r"do not sum to one.*rows 2, 4.*sum 0\.9",
        ),
        ({"probabilities": {"gender": [[1, 0], [np.nan, 1], [0, 1], [1, 0]]}}, r"do not sum to one.*row 2"),
        ({"synthetic_labels": ("height",)}, "unknown task.*'height'"),
    ],
)
def test_bad_input_is_named_with_its_rows(change, message):
    good = hand_made("set", "gender", [0, 1, 1, 0], [[1, 0], [0, 1], [1, 0], [0, 1]])
    fields = {f.name: getattr(good, f.name) for f in dataclasses.fields(good)}
    with pytest.raises(UserError, match=message) as error:
        Predictions(**(fields | change))
    assert "\n" not in str(error.value)


def test_tasks_of_labels_and_probabilities_must_agree():
    good = random_predictions("set", n=4)
    with pytest.raises(UserError, match="tasks of labels and probabilities differ"):
        dataclasses.replace(good, labels={"age": good.labels["age"]})
