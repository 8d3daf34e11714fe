import numpy as np
import pytest

from softbio_jax.data.prepare import prepare
from softbio_jax.errors import UserError
from softbio_jax.tasks import EMOTION
from tests.data.trees import by_id, prepared_split, write_image, write_table

HEADER = (
    *("subDirectory_filePath", "face_x", "face_y", "face_width", "face_height"),
    *("facial_landmarks", "expression", "valence", "arousal"),
)
NAMES = ("neutral", "happy", "sad", "surprise", "fear", "disgust", "angry")


def test_table_of_the_manual_release(tmp_path):
    rows = []
    for number in range(11):
        write_image(tmp_path / "Manually_Annotated_Images" / "1" / f"{number}.jpg", number)
        rows.append((f"1/{number}.jpg", 2, 3, 10, 12, "1;2", number, 0.1, 0.2))
    write_table(tmp_path / "training.csv", HEADER, rows)
    dataset, report = prepared_split("affectnet", tmp_path, tmp_path / "out", "train")
    assert by_id(dataset, "emotion") == {
        f"1/{number}.jpg": (EMOTION.classes.index(name),) for number, name in enumerate(NAMES)
    }
    assert report["skipped_by_reason"] == {
        f"expression {name}": 1 for name in ("contempt", "none", "uncertain", "no-face")
    }


@pytest.mark.parametrize("kind", [np.int64, np.str_])
def test_release_of_eight_classes(tmp_path, kind):
    (tmp_path / "val_set" / "annotations").mkdir(parents=True)
    for number in range(9):
        write_image(tmp_path / "val_set" / "images" / f"{number}.jpg", number)
    for number in range(8):
        np.save(tmp_path / "val_set" / "annotations" / f"{number}_exp.npy", kind(number))
    dataset, report = prepared_split("affectnet", tmp_path, tmp_path / "out", "val", max_rejected=0.2)
    expected = [EMOTION.classes.index(name) for name in NAMES]
    assert dataset.labels["emotion"].tolist() == expected
    assert report["skipped_by_reason"] == {"expression contempt": 1}
    assert report["rejected_by_reason"] == {"no annotation file": 1}


def test_unknown_expression(tmp_path):
    (tmp_path / "Manually_Annotated_Images").mkdir()
    rows = [("1/1.jpg", 2, 3, 10, 12, "", 11, 0, 0)]
    write_table(tmp_path / "training.csv", HEADER, rows)
    with pytest.raises(UserError, match=r"training.csv row 2.*found '11'"):
        prepare.survey("affectnet", source=str(tmp_path))
