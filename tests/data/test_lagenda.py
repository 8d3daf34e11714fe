import numpy as np
import pytest

from softbio_jax.data import decode
from softbio_jax.data.prepare import prepare
from softbio_jax.errors import UserError
from tests.data.trees import by_id, prepared_split, write_image, write_table

HEADER = (
    *("img_name", "age", "gender", "face_x0", "face_y0", "face_x1", "face_y1"),
    *("person_x0", "person_y0", "person_x1", "person_y1"),
)
PERSON = (0, 0, 40, 40)


def _tree(root, rows):
    for name in ("a", "b"):
        write_image(root / "lag_benchmark" / f"{name}.jpg", ord(name), size=(40, 60), quality=98)
    table = [(f"lag_benchmark/{name}", *labels, *box, *PERSON) for name, labels, box in rows]
    write_table(root / "lagenda_annotation.csv", HEADER, table)
    return root


def test_every_kind_of_row(tmp_path):
    rows = [
        ("a.jpg", ("34", "F"), (8, 4, 28, 24)),
        ("a.jpg", ("69.5", "M"), (30, 0, 70, 40)),  # the box reaches over the border
        ("a.jpg", ("-1", "-1"), (0, 0, 9, 9)),
        ("b.jpg", ("2", "-1"), (0, 0, 30, 30)),
        ("b.jpg", ("40", "M"), (-1, -1, -1, -1)),
        ("b.jpg", ("40", "M"), (9, 9, 9, 20)),
        ("c.jpg.jpg", ("40", "M"), (0, 0, 9, 9)),  # not in the archive
    ]
    dataset, report = prepared_split(
        "lagenda", _tree(tmp_path, rows), tmp_path / "out", "train", max_rejected=0.5
    )
    assert by_id(dataset, "age", "gender") == {
        "lag_benchmark/a_face0": (4, 1),
        "lag_benchmark/a_face1": (8, 0),
        "lag_benchmark/b_face0": (0, -1),
    }
    assert dataset.columns["photograph"].tolist() == ["lag_benchmark/a.jpg"] * 2 + ["lag_benchmark/b.jpg"]
    assert report["skipped_by_reason"] == {"neither age nor gender": 1, "no face box": 1}
    assert {row["path"]: row["reason"] for row in report["rejected_rows"]} == {
        "lag_benchmark/b_face2": "an empty face box (9.0, 9.0, 9.0, 20.0)",
        "lag_benchmark/c.jpg_face0": "no such file",
    }
    assert report["rows_read"] == 7


def test_faces_are_cut_out(tmp_path):
    rows = [("a.jpg", ("34", "F"), (8, 4, 28, 24)), ("a.jpg", ("69.5", "M"), (30, 0, 70, 40))]
    dataset, _ = prepared_split("lagenda", _tree(tmp_path, rows), tmp_path / "out", "train")
    photograph = decode.decode_full((tmp_path / "lag_benchmark" / "a.jpg").read_bytes())
    inside, over = (decode.decode_full(dataset[i]).astype(int) for i in (0, 1))
    assert np.abs(inside - photograph[4:24, 8:28]).mean() < 3
    assert over.shape == (40, 40, 3)
    assert np.abs(over[:, :30] - photograph[:, 30:]).mean() < 3
    assert over[:, 32:].max() < 30  # black outside of the frame, but for the JPEG


@pytest.mark.parametrize(("labels", "says"), [(("old", "F"), "'age'.*row 2"), (("3", "x"), "gender.*row 2")])
def test_unknown_labels(tmp_path, labels, says):
    source = _tree(tmp_path, [("a.jpg", labels, (0, 0, 9, 9))])
    with pytest.raises(UserError, match=says):
        prepare.survey("lagenda", source=str(source))
