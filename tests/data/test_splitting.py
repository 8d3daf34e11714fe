"""--split: a train and a test part by subject."""

import pytest

from softbio_jax.data import sources
from softbio_jax.data.prepare import prepare, splitting
from softbio_jax.data.prepare.rows import Rejection, Row, Skip
from softbio_jax.errors import UserError
from tests.data.layouts.tree import images
from tests.data.trees import make_emotions


def _rows(subjects, *, column="identity"):
    columns = [{column: subject} if subject else {} for subject in subjects]
    return [Row(id=str(n), image=b"", labels={}, columns=one) for n, one in enumerate(columns)]


@pytest.mark.parametrize(
    ("count", "share", "expected"), [(10, 0.8, 8), (3, 0.8, 2), (2, 0.01, 1), (2, 0.99, 1), (1000, 0.5, 500)]
)
def test_the_share_of_the_subjects(count, share, expected):
    rows = _rows([f"person {n // 3}" for n in range(3 * count)])
    training = splitting.training_subjects(rows, share=share)
    assert len(training) == expected
    parts = {part: list(splitting.divide(rows, training, part=part)) for part in splitting.PARTS}
    assert sorted(row.id for part in parts.values() for row in part) == sorted(row.id for row in rows)
    train, test = ({row.columns["identity"] for row in part} for part in parts.values())
    assert len(train) == expected and not train & test


def test_more_rows_move_few_others():
    subjects = [str(n) for n in range(200)]
    before = splitting.training_subjects(_rows(subjects), share=0.8)
    after = splitting.training_subjects(_rows([*subjects, "new", "newer"]), share=0.8)
    assert len(before - after) <= 2


def test_order_does_not_matter_and_the_seed_is_fixed():
    subjects = [f"S{n:03d}" for n in range(10)]
    first = splitting.training_subjects(_rows(subjects), share=0.5)
    assert first == splitting.training_subjects(_rows(subjects[::-1] * 2), share=0.5)
    # By sha256sum; python's hash differs between processes.
    assert first == {"S005", "S006", "S007", "S008", "S009"}


@pytest.mark.parametrize("column", ["identity", "user", "photograph"])
def test_whatever_names_a_subject(column):
    assert splitting.subject_of(_rows(["x"], column=column)[0]) == "x"
    assert splitting.subject_of(_rows([""], column=column)[0]) == "0"


def test_other_rows_are_in_one_part():
    rows = [*_rows(["a", "b"]), Rejection("c", "bad"), Skip("omitted")]
    training = splitting.training_subjects(rows, share=0.5)
    parts = [list(splitting.divide(rows, training, part=part)) for part in splitting.PARTS]
    assert [len(part) for part in parts] == [3, 1]


def test_a_set_is_prepared_in_two_parts(tmp_path):
    people = {
        f"Person{n}": (f"{2 * n}_Person{n}_30_m.jpg", f"{2 * n + 1}_Person{n}_31_m.jpg") for n in range(5)
    }
    images(tmp_path / "raw", *(name for names in people.values() for name in names))
    report = prepare.prepare("agedb", source=str(tmp_path / "raw"), out=tmp_path / "out", split=0.8)
    train, test = (sources.open_prepared(tmp_path / "out", part) for part in ("train", "test"))
    assert (len(train), len(test)) == (8, 2)
    assert not set(train.columns["identity"]) & set(test.columns["identity"])
    assert report["protocol"]["split"] == "0.8 by subject"
    assert [part["rows_read"] for part in report["splits"].values()] == [8, 2]


@pytest.mark.parametrize("share", [0, 1, -0.5, 80, float("nan")])
def test_a_share_that_leaves_a_part_empty(tmp_path, share):
    images(tmp_path, "1_A_30_m.jpg", "2_B_30_m.jpg")
    with pytest.raises(UserError, match=r"not a fraction: --split: expected between 0 and 1"):
        prepare.survey("agedb", source=str(tmp_path), split=share)


def test_a_set_with_its_own_splits(tmp_path):
    make_emotions(tmp_path)
    with pytest.raises(
        UserError, match=r"the data have splits of their own: --split: found t\w+, t\w+; fix: omit --split"
    ):
        prepare.survey("fer2013", source=str(tmp_path), split=0.8)


def test_one_subject_cannot_be_divided(tmp_path):
    images(tmp_path, "1_A_30_m.jpg", "2_A_31_m.jpg")
    with pytest.raises(UserError, match="one subject"):
        prepare.survey("agedb", source=str(tmp_path), split=0.8)
