"""What builders keep of ranges, years and votes, how it is counted, and what copies may contradict."""

import numpy as np
import pytest

from softbio_jax.data.audit import groups
from softbio_jax.data.partial import targets
from softbio_jax.data.prepare import prepare
from softbio_jax.errors import UserError
from softbio_jax.tasks import AGE
from tests.data.trees import by_id, prepared_split, write_image, write_table
from tests.runs import mixed


def table(root, ages):
    for number in range(len(ages)):
        write_image(root / f"{number}.jpg", number)
    write_table(root / "labels.csv", ("file", "age"), [(f"{n}.jpg", age) for n, age in enumerate(ages)])
    return root / "labels.csv"


def test_a_table_of_ranges_keeps_them(tmp_path):
    ages = ["4-19", "20-29", "37", "70+", "[20, 40)", "", "(4, 6)"]
    dataset, report = prepared_split(
        "csv", table(tmp_path, ages), tmp_path / "out", "train", age_values="range"
    )
    assert dataset.labels["age"].tolist() == [-1, 3, 4, 8, -1, 1]
    assert dataset.columns["age_range"].tolist() == [age for age in ages if age]
    assert report["masked_by_reason"] == {"age: an age range over several classes": 2}
    assert report["labels"] == {"age": {"full": 4, "partial": 2, "none": 0}}
    found = targets.attach(dataset, {"age": "target"}).targets["age"]
    classes = [np.flatnonzero(found.classes_of(i)).tolist() for i in range(6)]
    assert classes == [[1, 2], [3], [4], [8], [3, 4], [1]]


@pytest.mark.parametrize("text", ["19-4", "[20, 20)", "100-140", "young"])
def test_a_bad_range_of_a_table_names_its_row(tmp_path, text):
    with pytest.raises(UserError, match=r"labels\.csv row 3.*fix: "):
        prepare.survey("csv", source=str(table(tmp_path, ["4-19", text])), age_values="range")


def test_a_folder_of_classes_has_no_ranges(tmp_path):
    write_image(tmp_path / "4-19" / "0.jpg", 0)
    with pytest.raises(UserError, match=r"--age_values: expected class or years"):
        prepare.survey("folder", source=str(tmp_path), task="age", age_values="range")


def test_votes_of_ferplus(tmp_path):
    dataset, report = prepared_split("ferplus", mixed.ferplus(tmp_path / "raw"), tmp_path / "out", "train")
    counts = np.array([cell.split() for cell in dataset.columns["votes_emotion"]], int)
    # Rows of a winner, whose votes are those of mixed.ferplus: 6 and perhaps 3.
    assert (counts.argmax(axis=1) == dataset.labels["emotion"]).all()
    assert set(counts.sum(axis=1).tolist()) == {6, 9}
    several = int(((counts > 0).sum(axis=1) > 1).sum())
    assert report["labels"] == {"emotion": {"full": len(dataset) - several, "partial": several, "none": 0}}
    assert several > 0


def test_an_older_preparation_has_years_and_groups(tmp_path):
    """The columns of builders before partial labels are enough, and fingerprints are the same."""
    dataset, report = prepared_split("rafdb", mixed.rafdb(tmp_path / "raw"), tmp_path / "out", "train")
    assert "age" not in dataset.labels
    found = targets.attach(dataset, {"age": "target"})
    assert found.fingerprint == dataset.fingerprint
    old = np.array(dataset.columns["age_group"]) == "70+"
    assert (found.targets["age"].full == old).all()
    assert report["labels"]["age"] == {"full": int(old.sum()), "partial": int((~old).sum()), "none": 0}
    part = found.take(np.array([3, 1]))
    assert part.targets["age"].index.tolist() == found.targets["age"].index[[3, 1]].tolist()


def test_ranges_of_adience(tmp_path):
    header = (
        *("user_id", "original_image", "face_id", "age", "gender"),
        *("x", "y", "dx", "dy", "tilt_ang", "fiducial_yaw_angle"),
    )
    ages = ["(25, 32)", "(0, 2)", "(60, 100)", "None"]
    for fold in range(5):
        rows = [("u", f"{n}.jpg", "9", age, "m", *"000000") for n, age in enumerate(ages)]
        lines = ["\t".join(row) for row in (header, *rows)]
        (tmp_path / f"fold_{fold}_data.txt").write_text("\n".join(lines) + "\n")
    for number in range(4):
        write_image(tmp_path / "aligned" / "u" / f"landmark_aligned_face.9.{number}.jpg", number)
    dataset, report = prepared_split("adience", tmp_path, tmp_path / "out", "fold_0")
    assert list(by_id(dataset, "age").values()) == [(-1,), (0,), (-1,), (-1,)]
    assert report["labels"] == {"age": {"full": 1, "partial": 2, "none": 1}}
    found = targets.attach(dataset, {"age": "target"}).targets["age"]
    sets = [[AGE.classes[c] for c in np.flatnonzero(found.classes_of(i))] for i in range(4)]
    assert sets == [["20-29", "30-39"], ["0-2"], ["60-69", "70+"], []]


def side(label=None, possible=()):
    return {
        "labels": {"age": label} if label else {},
        "possible": {"age": list(possible)} if possible else {},
    }


@pytest.mark.parametrize(
    ("sides", "differ"),
    [
        ([side("3-9"), side("3-9")], []),
        ([side("3-9"), side("10-19")], ["10-19", "3-9"]),
        ([side("3-9"), side(possible=("3-9", "10-19"))], []),
        ([side("20-29"), side(possible=("3-9", "10-19"))], ["10-19", "20-29", "3-9"]),
        ([side(possible=("0-2", "3-9")), side(possible=("3-9", "10-19"))], []),
        (
            [side(possible=("0-2", "3-9")), side(possible=("20-29", "30-39"))],
            ["0-2", "20-29", "3-9", "30-39"],
        ),
        ([side(), side("3-9")], []),
    ],
)
def test_copies_contradict_where_no_class_is_left(sides, differ):
    assert groups.contradictions(sides).get("age", []) == differ


def test_noise_is_expanded_and_unlabelled_rows_stay_so(tmp_path):
    dataset, _ = prepared_split("fairface", mixed.fairface(tmp_path / "raw"), tmp_path / "out", "train")
    dataset.labels["age"][:2] = [3, -1]
    matrix = np.full((9, 9), 0.02)
    np.fill_diagonal(matrix, 0.84)
    matrix[4] = np.eye(9)[3]  # thirties are always called twenties
    found = targets.attach(dataset, {"age": "target"}, {"age": matrix.tolist()}).targets["age"]
    np.testing.assert_allclose(found.classes_of(0), matrix[:, 3], rtol=1e-6)
    assert not found.known[1] and found.known[0] and not found.full[0]
    np.testing.assert_allclose(targets.confusion(0.3, 4, where=""), 0.6 * np.eye(4) + 0.1)


def test_the_oldest_are_in_the_last_year(tmp_path):
    ages = ["110", "100", "99", "95-120"]
    dataset, _ = prepared_split("csv", table(tmp_path, ages), tmp_path / "out", "train", age_values="range")
    found = targets.attach(dataset, {"age": "target"}).targets["age"]
    years = [np.flatnonzero(found.table[i]).tolist() for i in found.index]
    assert years == [[100], [100], [99], [95, 96, 97, 98, 99, 100]]
