import pytest

from softbio_jax.data.prepare import prepare
from softbio_jax.errors import UserError
from tests.data.trees import by_id, prepared_split, write_image, write_table

HEADER = ("Path", "Gender", "Age", "Ethnicity", "Facial Emotion", "Identity")
ROOT = "datasets_with_standard_labels/FairFace"


def _tree(root, rows, *, header=HEADER, split="train"):
    for number in range(4):
        write_image(root / split / "images" / f"{number:08d}.jpg", number)
    write_table(root / split / "labels.csv", header, rows)
    return root


def test_both_generations_of_files(tmp_path):
    rows = [
        (0, f"{ROOT}/train/images/00000000.jpg", 1, 4, 3, -100.0, -100.0),
        (1, f"{ROOT}/train/images/00000001.jpg".replace("/", "\\")[:-4], "1", -100.0, "", 4.0, 7),
        (2, "train/images/00000002.jpg", "", "20-29", -1, -1, ""),
        (3, "train/images/00000003.jpg", "", "", 2, "", ""),
    ]
    dataset, report = prepared_split(
        "standard", _tree(tmp_path, rows, header=("", *HEADER)), tmp_path / "out", "train"
    )
    assert by_id(dataset, "age", "gender", "emotion") == {
        "train/images/00000000.jpg": (4, 1, -1),
        "train/images/00000001.jpg": (-1, 1, 4),
        "train/images/00000002.jpg": (3, -1, -1),
    }
    assert dataset.columns["ethnicity"].tolist() == ["Indian", "", ""]
    assert dataset.columns["identity"].tolist() == ["", "7", ""]
    assert report["skipped_by_reason"] == {"no label": 1}


def test_ages_in_years(tmp_path):
    rows = [("train/images/00000000.jpg", 0, 34.5, "", "", "")]
    source = str(_tree(tmp_path, rows))
    with pytest.raises(UserError, match=r"expected 0 to 8, found '34.5'.*--age_values=years"):
        prepare.survey("standard", source=source)
    dataset, _ = prepared_split("standard", source, tmp_path / "out", "train", age_values="years")
    assert dataset.labels["age"].tolist() == [4]


@pytest.mark.parametrize("emotion", [7, -3, "cheerful"])
def test_unknown_emotion(tmp_path, emotion):
    rows = [("train/images/00000000.jpg", 0, "", "", emotion, "")]
    with pytest.raises(UserError, match=r"labels.csv row 2"):
        prepare.survey("standard", source=str(_tree(tmp_path, rows)))


def test_path_out_of_the_folder(tmp_path):
    rows = [("..\\..\\secret", 0, 1, "", "", "")]
    with pytest.raises(UserError, match=r"leaves the data folder: .*labels.csv row 2"):
        prepare.survey("standard", source=str(_tree(tmp_path, rows)))


def test_impossible_ages_are_rejected(tmp_path):
    ages = ("34", "1985", "20-29", "-7")
    rows = [(f"train/images/{i:08d}.jpg", 0, age, "", "", "") for i, age in enumerate(ages)]
    options = {"age_values": "years", "max_rejected": 0.5}
    dataset, report = prepared_split("standard", _tree(tmp_path, rows), tmp_path / "out", "train", **options)
    assert dataset.labels["age"].tolist() == [4, 3]
    assert [row["found"] for row in report["rejected_rows"]] == ["1985", "-7"]
