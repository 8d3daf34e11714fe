"""The table of predictions: exact round trip, and a named refusal of every broken table."""

import numpy as np
import pytest

from softbio_jax.errors import UserError
from softbio_jax.evaluation import predictions_csv
from softbio_jax.tasks import MISSING
from tests.evaluation.fixtures import random_predictions

GOOD = """id,gender_label,gender_male,gender_female,race
a.jpg,male,0.75,0.25,White
b.jpg,,0.5,0.5,
"c,d.jpg",female,0.125,0.875,Black
"""


@pytest.fixture
def table(tmp_path):
    def write(text: str):
        path = tmp_path / "set.csv"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_round_trip_is_exact(tmp_path):
    before = random_predictions("fairface", tasks=("age", "gender", "emotion"), n=40)
    after = predictions_csv.load(predictions_csv.save(before, tmp_path / "deep" / "fairface.csv"))
    assert after.name == "fairface"
    assert after.ids.tolist() == before.ids.tolist()
    assert after.audit["race"].tolist() == before.audit["race"].tolist()
    for task in before.labels:
        np.testing.assert_array_equal(after.labels[task], before.labels[task])
        np.testing.assert_array_equal(after.probabilities[task], before.probabilities[task])


def test_contract_by_example(table):
    loaded = predictions_csv.load(table(GOOD), name="mine", synthetic_labels=["gender"])
    assert loaded.name == "mine"
    assert loaded.ids.tolist() == ["a.jpg", "b.jpg", "c,d.jpg"]
    assert loaded.labels["gender"].tolist() == [0, MISSING, 1]
    assert loaded.probabilities["gender"].tolist() == [[0.75, 0.25], [0.5, 0.5], [0.125, 0.875]]
    assert loaded.audit["race"].tolist() == ["White", "", "Black"]
    assert loaded.synthetic_labels == ("gender",)


def test_labels_may_be_absent_only_when_asked(table):
    text = "id,gender_male,gender_female\na,0.5,0.5\n"
    with pytest.raises(UserError, match=r"missing column.*gender_label"):
        predictions_csv.load(table(text))
    loaded = predictions_csv.load(table(text), labels="optional")
    assert loaded.labels["gender"].tolist() == [MISSING]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (GOOD, "", "bad header"),
        (GOOD, GOOD.splitlines()[0] + "\n", "empty test set"),
        ("id,", "name,", "bad header.*row 1.*column `id`"),
        (",race", ",id", "bad header"),
        ("gender_male,gender_female", "gender_female,gender_male", "classes in another order.*row 1"),
        ("gender_female", "gender_other", "other gender classes.*gender_female"),
        ("gender", "height", "no task in predictions"),
        (",male,", ",m,", r"unknown gender class.*row 2.*expected male, female.*'m'"),
        ("0.75", "high", r"not a probability.*row 2 column gender_male.*'high'"),
        ("0.75", "0.80", r"do not sum to one.*row 1"),
        ("b.jpg", "a.jpg", r"duplicate id.*row 2"),
        ("b.jpg,", "b.jpg,,", r"row of another length.*row 3"),
    ],
)
def test_bad_tables_are_named_with_rows(table, old, new, message):
    path = table(GOOD.replace(old, new))
    with pytest.raises(UserError, match=message) as error:
        predictions_csv.load(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"cannot read predictions.*nowhere\.csv"):
        predictions_csv.load(tmp_path / "nowhere.csv")
