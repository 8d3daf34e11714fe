import pytest

from softbio_jax.data import decode, faces
from softbio_jax.data.prepare import prepare, storage
from softbio_jax.errors import UserError
from tests.data.trees import by_id, prepared_split, write_image

NAMES = {
    "26_1_1_20170116184024662.jpg.chip.jpg": (3, 1),
    "1_0_4_20170116184024662.jpg.chip.jpg": (0, 0),
    "116_1_0_20170116184024662.jpg.chip.jpg": (8, 1),
    # Odd names of the release that hold every field all the same.
    "55_0_0_20170116232725357jpg.chip.jpg": (6, 0),
    "24_0_1_20170116220224657 .jpg.chip.jpg": (3, 0),
    "14_0_0_20170110223409001234.jpg.chip.jpg": (2, 0),
    "28_1_2_201701161846515488.jpg.chip.jpg": (3, 1),
    "38_0_1_201701162330572788.jpg.chip.jpg": (4, 0),
}
NO_RACE = [
    "39_1_20170116174525125.jpg.chip.jpg",
    "61_1_20170109142408075.jpg.chip.jpg",
    "61_1_20170109150557335.jpg.chip.jpg",
]


def _tree(root, folder):
    for number, name in enumerate([*NAMES, *NO_RACE]):
        write_image(root / folder / name, number)
    (root / folder / "26_1_1_20170116184024663.jpg.chip.jpg").write_bytes(b"")
    return root


@pytest.mark.parametrize("folder", ["UTKFace", "."])
def test_names(tmp_path, folder):
    dataset, report = prepared_split(
        "utkface", _tree(tmp_path / "raw", folder), tmp_path / "out", "test", max_rejected=0.5
    )
    assert by_id(dataset, "age", "gender") == NAMES
    assert dataset.columns["race"][0] in ("White", "Black", "Asian", "Indian", "Others")
    rejected = {row["path"]: row["reason"] for row in report["rejected_rows"]}
    assert rejected.pop("26_1_1_20170116184024663.jpg.chip.jpg") == "empty file"
    assert rejected == dict.fromkeys(NO_RACE, "the name lacks age, gender or race")


class _Middle:
    name = "middle"

    def find(self, image):
        height, width = image.shape[:2]
        box = (width / 4, height / 4, width * 3 / 4, height * 3 / 4)
        return [] if height < 30 else [faces.Face(box=box, confidence=1.0)]


def test_wild_photographs(tmp_path):
    write_image(tmp_path / "part1" / "26_1_1_1.jpg", 1, size=(40, 40))
    write_image(tmp_path / "part3" / "26_1_1_1.jpg", 2, size=(60, 60))
    write_image(tmp_path / "part3" / "27_1_1_1.jpg", 3, size=(20, 20))
    dataset, report = prepared_split(
        "utkface",
        tmp_path,
        tmp_path / "out",
        "test",
        utk="wild",
        storage=storage.Storage(face_finder=_Middle()),
        max_rejected=0.5,
    )
    assert dataset.columns["id"].tolist() == ["part1/26_1_1_1.jpg", "part3/26_1_1_1.jpg"]
    assert decode.decode_full(dataset[1]).shape == (30, 30, 3)
    assert report["rejected_by_reason"] == {"no face found": 1}


def test_wild_needs_a_face_finder(tmp_path):
    with pytest.raises(UserError, match="photographs need a face finder"):
        prepare.survey("utkface", source=str(tmp_path), utk="wild")


def test_empty_folder(tmp_path):
    with pytest.raises(UserError, match=r"not a UTKFace folder.*found an empty folder"):
        prepare.survey("utkface", source=str(tmp_path))
