import pytest

from softbio_jax.data.prepare import prepare
from softbio_jax.errors import UserError
from tests.data.trees import by_id, prepared_split, write_image

ATTRIBUTES = "3\nBald Male Young\n{0}1.jpg -1 1 1\n{0}2.jpg -1 -1 1\n{0}3.jpg  1 1 -1\n"


def test_hq_folders(tmp_path):
    for split, name, count in (("train", "female", 2), ("train", "male", 1), ("val", "male", 1)):
        for i in range(count):
            write_image(tmp_path / split / name / f"{i}.jpg", i + 10 * len(name))
    dataset, report = prepared_split("celeba_hq", tmp_path, tmp_path / "out", "train")
    assert by_id(dataset, "gender") == {
        "train/female/0.jpg": (1,),
        "train/female/1.jpg": (1,),
        "train/male/0.jpg": (0,),
    }
    assert list(dataset.labels) == ["gender"]
    assert report["class_counts"]["gender"] == {"male": 1, "female": 2}


def test_mask_hq(tmp_path):
    (tmp_path / "CelebAMask-HQ-attribute-anno.txt").write_text(ATTRIBUTES.format(""))
    for i in (1, 2, 3):
        write_image(tmp_path / "CelebA-HQ-img" / f"{i}.jpg", i)
    dataset, _ = prepared_split("celeba_mask_hq", tmp_path, tmp_path / "out", "train")
    assert by_id(dataset, "gender") == {"1.jpg": (0,), "2.jpg": (1,), "3.jpg": (0,)}


def _celeba(root):
    (root / "list_attr_celeba.txt").write_text(ATTRIBUTES.format("00000"))
    (root / "list_eval_partition.txt").write_text("000001.jpg 0\n000002.jpg 2\n000003.jpg 1\n")
    for i in (1, 2, 3):
        write_image(root / "img_align_celeba" / f"00000{i}.jpg", i)
    return root


@pytest.mark.parametrize(
    ("split", "expected"),
    [("train", {"000001.jpg": (0,)}), ("val", {"000003.jpg": (0,)}), ("test", {"000002.jpg": (1,)})],
)
def test_celeba_partitions(tmp_path, split, expected):
    dataset, _ = prepared_split("celeba", _celeba(tmp_path), tmp_path / "out", split)
    assert by_id(dataset, "gender") == expected


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("Male", "Man", "no attribute Male"),
        ("-1 -1 1", "-1 0 1", "line 4"),
        ("000002", "000009", "without a partition"),
    ],
)
def test_broken_attribute_file(tmp_path, old, new, says):
    path = _celeba(tmp_path) / "list_attr_celeba.txt"
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(UserError, match=says):
        prepare.survey("celeba", source=str(tmp_path))
