"""Where the files of a data set are: in any case, inside other folders, never one of two."""

import pytest

from softbio_jax.data.prepare import locate, prepare
from softbio_jax.errors import UserError
from tests.data.layouts.sets import class_folders
from tests.data.layouts.tree import images
from tests.data.trees import make_fairface, write_image


@pytest.mark.parametrize("depth", range(5))
def test_a_set_is_found_up_to_three_folders_below_the_source(tmp_path, depth):
    class_folders(tmp_path.joinpath("raw", *["a folder"] * depth, "train"), "1", *"234567")
    images(tmp_path, "raw/__MACOSX/train/1/._0.jpg", "raw/.cache/train/1/0.jpg")
    if depth > 3:
        with pytest.raises(UserError, match="not a RAF-DB folder"):
            prepare.survey("rafdb", source=str(tmp_path / "raw"))
    else:
        assert prepare.survey("rafdb", source=str(tmp_path / "raw"))["train"].labelled == 7


def test_the_nearest_copy_is_read(tmp_path):
    class_folders(tmp_path / "train", "happy", "sad")
    class_folders(tmp_path / "old" / "train", "happy", "sad", "fear")
    assert prepare.survey("fer2013", source=str(tmp_path))["train"].labelled == 2


def test_of_two_copies_none_is_read(tmp_path):
    for name in ("one", "two"):
        class_folders(tmp_path / name / "train", "happy", "sad")
    with pytest.raises(UserError, match=r"two copies of the data: .*one/ and two/.*--source=.*one$"):
        prepare.survey("fer2013", source=str(tmp_path))


def test_of_two_archives_of_images_none_is_read(tmp_path):
    make_fairface(tmp_path, train=2, val=1)
    for archive in ("fairface-img-margin025-trainval", "fairface-img-margin125-trainval"):
        images(tmp_path / archive, "train/1.jpg", "train/2.jpg", "val/1.jpg")
    for split in ("train", "val"):
        (tmp_path / split).rename(tmp_path / f"moved_{split}")
    with pytest.raises(
        UserError, match=r"two copies .*margin025-trainval/train and .*margin125-trainval/train"
    ):
        prepare.survey("fairface", source=str(tmp_path))


def test_names_that_differ_in_case_alone(tmp_path):
    for name in ("train", "Train"):
        class_folders(tmp_path / name, "happy", "sad")
    with pytest.raises(UserError, match=r"two folders of the split 'train': .*found (Train/ and train/)"):
        prepare.survey("fer2013", source=str(tmp_path))
    with pytest.raises(UserError, match="two of the name 'TRAIN'"):
        locate.entry(tmp_path, "TRAIN/happy")


@pytest.mark.parametrize(
    ("lies", "named"),
    [
        ("Album2/a.JPG", "Album2/a.JPG"),
        ("Album2/A.jpg", "album2/a.jpg"),
        ("album2/a.png", "Album2\\a.JPG"),
        ("a.jpg", "./a.jpg"),
        ("a.jpg.chip.jpg", "a.jpg.chip.png"),
    ],
)
def test_an_image_in_another_case_or_format(tmp_path, lies, named):
    write_image(tmp_path / lies, 0)
    assert locate.Images(tmp_path).path(named, where="row 2") == tmp_path / lies


def test_an_image_that_is_not_there_keeps_its_name(tmp_path):
    images(tmp_path, "b.jpg", "ab.jpg")
    (tmp_path / "a.txt").write_text("")
    assert locate.Images(tmp_path).path("c/a.jpg", where="row 2") == tmp_path / "c" / "a.jpg"
    assert locate.Images(tmp_path).path("a.jpg", where="row 2") == tmp_path / "a.jpg"


def test_of_two_images_of_a_name_none_is_read(tmp_path):
    images(tmp_path, "a.png", "a.bmp")
    with pytest.raises(UserError, match=r"two images of the name 'a.jpg': row 2: found a.bmp and a.png"):
        locate.Images(tmp_path).path("a.jpg", where="row 2")
    write_image(tmp_path / "a.jpg", 1)
    assert locate.Images(tmp_path).path("a.jpg", where="row 2") == tmp_path / "a.jpg"


@pytest.mark.parametrize("name", ["/etc/a.jpg", "../a.jpg", "C:\\a.jpg", ""])
def test_an_image_outside_the_folder(tmp_path, name):
    with pytest.raises(UserError, match=r"a path leaves the data folder: row 2"):
        locate.Images(tmp_path).path(name, where="row 2")


def test_a_folder_is_listed_once_for_all_its_images(tmp_path, monkeypatch):
    images(tmp_path, *(f"{number}.png" for number in range(5)))
    listed, entries = [], locate._entries
    monkeypatch.setattr(locate, "_entries", lambda folder: listed.append(folder) or entries(folder))
    found = locate.Images(tmp_path)
    assert all(found.path(f"{number}.jpg", where="").suffix == ".png" for number in range(5))
    assert listed == [tmp_path]


@pytest.mark.parametrize(
    ("header", "fits"),
    [
        ("emotion,pixels", True),
        ('\ufeff"pixels", "emotion",Usage', True),
        ("emotion;pixels", False),
        ("emotion", False),
        ("", False),
    ],
)
def test_a_table_is_known_by_its_columns(tmp_path, header, fits):
    (tmp_path / "Train.CSV").write_text(header + "\n", encoding="utf-8")
    assert locate.with_columns("train.csv", "emotion", "pixels")(tmp_path) is fits


def test_a_folder_of_thousands_is_not_searched(tmp_path, monkeypatch):
    for number in range(locate._MOST_MATCHES + 50):
        (tmp_path / f"{number:04d}").mkdir()
    looked = []
    entries = locate._entries
    monkeypatch.setattr(locate, "_entries", lambda folder: looked.append(folder) or entries(folder))
    assert not locate.has("*/list.txt")(tmp_path)
    assert len(looked) == locate._MOST_MATCHES + 1
