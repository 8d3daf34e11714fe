import pytest

from softbio_jax.data.prepare import prepare
from softbio_jax.errors import UserError
from tests.data.trees import by_id, prepared_split, write_image

HEADER = (
    *("user_id", "original_image", "face_id", "age", "gender"),
    *("x", "y", "dx", "dy", "tilt_ang", "fiducial_yaw_angle"),
)
# age text -> age label
AGES = {
    "(0, 2)": 0,
    "(4, 6)": 1,
    "(8, 12)": -1,
    "(15, 20)": -1,
    "(25, 32)": -1,
    "(38, 43)": -1,
    "(48, 53)": -1,
    "(60, 100)": -1,
    "35": 4,
    "None": -1,
}


def _tree(root, rows):
    for fold in range(5):
        lines = ["\t".join(HEADER)]
        for number, (age, gender) in enumerate(rows):
            image = f"{fold}{number}.jpg"
            write_image(root / "aligned" / "u@1" / f"landmark_aligned_face.9.{image}", number)
            lines.append("\t".join(["u@1", image, "9", age, gender, *"000000"]))
        (root / f"fold_{fold}_data.txt").write_text("\n".join(lines) + "\n")
    return root


def test_ages_and_genders(tmp_path):
    rows = [(age, "mf"[n % 2]) for n, age in enumerate(AGES)] + [("(0, 2)", "u"), ("None", "")]
    dataset, report = prepared_split("adience", _tree(tmp_path, rows), tmp_path / "out", "fold_3")
    expected = [(label, n % 2) for n, label in enumerate(AGES.values())] + [(0, -1)]
    assert list(by_id(dataset, "age", "gender").values()) == expected
    assert dataset.columns["id"][0] == "u@1/landmark_aligned_face.9.30.jpg"
    assert report["masked_by_reason"] == {"age: an age range over two classes": 6, "gender: gender unsure": 1}
    assert report["skipped_by_reason"] == {"no label": 1}


def test_not_an_age(tmp_path):
    with pytest.raises(UserError, match=r"fold_0_data.txt row 2.*found '\(0, 2, 4\)'"):
        prepare.survey("adience", source=str(_tree(tmp_path, [("(0, 2, 4)", "m")])))
