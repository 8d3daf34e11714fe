"""Ages, genders and persons of the data sets that have them, by their images."""

import pytest

from softbio_jax.data.builders import BUILDERS
from softbio_jax.data.prepare import prepare
from softbio_jax.data.prepare.rows import Rejection, Row
from softbio_jax.errors import UserError
from tests.data.layouts import age as trees
from tests.data.layouts.sets import grey
from tests.data.layouts.tree import images
from tests.data.trees import write_table


def rows(dataset, root, tmp_path, split="train", **options):
    builder = BUILDERS[dataset](source=str(root), data_dir=tmp_path / "scratch", **options)
    assert split in builder.splits()
    return list(builder.rows(split))


def labels(found, *columns):
    """id -> (age label, gender label, columns...) of the rows; why the others are rejected."""
    return {
        row.id if isinstance(row, Row) else row.path: (
            (row.labels.get("age"), row.labels.get("gender"), *(row.columns[name] for name in columns))
            if isinstance(row, Row)
            else row.reason
        )
        for row in found
    }


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("0_MariaCallas_35_f.jpg", (4, 1, "MariaCallas", "35")),
        ("12_Jean_Paul_Belmondo_2_M.png", (0, 0, "Jean_Paul_Belmondo", "2")),
        ("7_O'Toole_101_m.jpg", (8, 0, "O'Toole", "101")),
        ("16488_X_121_m.jpg", "an impossible age"),
        ("5_X_1950_m.jpg", "the name lacks the person, age or gender"),
        ("5_X_50.jpg", "the name lacks the person, age or gender"),
    ],
)
def test_names_of_agedb(tmp_path, name, expected):
    images(tmp_path / "raw", "1_A_30_m.jpg", name)
    assert labels(rows("agedb", tmp_path / "raw", tmp_path), "identity", "years")[name] == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("009055_1M54.JPG", (6, 0, "009055", "54")),
        ("12_00F9.jpg", (1, 1, "12", "9")),
        ("12_0F999.jpg", "an impossible age"),
        ("12_0X54.jpg", "the name lacks the person, gender or age"),
    ],
)
def test_names_of_morph(tmp_path, name, expected):
    images(tmp_path / "raw", "1_1M20.JPG", name)
    assert labels(rows("morph", tmp_path / "raw", tmp_path), "identity", "years")[name] == expected


def test_the_table_of_morph(tmp_path):
    trees._morph(tmp_path / "raw")
    found = labels(rows("morph", tmp_path / "raw", tmp_path), "identity", "race")
    assert found == {
        "Album2/009055_0F05.JPG": (1, 1, "009055", "Black"),
        "Album2/100012_1M26.JPG": (3, 0, "100012", "White"),
    }


def test_a_number_without_a_meaning_is_no_gender(tmp_path):
    trees._morph_index(tmp_path)
    report = prepare.prepare("morph", source=str(tmp_path), out=tmp_path / "out")
    masked = {split: part["masked_by_reason"] for split, part in report["splits"].items()}
    assert masked == {"train": {}, "val": {}, "test": {"gender: a number without a meaning": 1}}


@pytest.mark.parametrize(("kind", "label"), [("real", 3), ("apparent", 1)])
def test_both_ages_of_appa_real(tmp_path, kind, label):
    trees._appa(tmp_path / "raw")
    found = rows("appa_real", tmp_path / "raw", tmp_path, appa_age=kind)
    assert labels(found, "years", "real_age", "apparent_age") == {
        "train/000000.jpg": (label, None, "26" if kind == "real" else "5.4", "26", "5.4")
    }
    assert found[0].image.name == "000000.jpg_face.jpg"


def test_a_face_that_is_missing_is_not_replaced_by_its_photograph(tmp_path):
    trees._appa(tmp_path / "raw")
    header = ("file_name", "num_ratings", "apparent_age_avg", "apparent_age_std", "real_age")
    images(tmp_path / "raw" / "train", "000009.jpg")
    table = [("000000.jpg", 38, 5, 1, 6), ("000009.jpg", 38, 5, 1, 6)]
    write_table(tmp_path / "raw" / "gt_avg_train.csv", header, table)
    with pytest.raises(UserError, match=r"000009.jpg_face.jpg"):
        prepare.prepare("appa_real", source=str(tmp_path / "raw"), out=tmp_path / "out")


@pytest.mark.parametrize(("age", "gender", "race"), [("26", "0", "1"), ("5.0", "1", "4")])
def test_pixels_of_utkface(tmp_path, age, gender, race):
    header = ("age", "ethnicity", "gender", "img_name", "pixels")
    write_table(tmp_path / "age_gender.csv", header, [(age, race, gender, "a.jpg.chip.jpg", grey(0))])
    found = labels(rows("utkface", tmp_path, tmp_path, "test"), "race")
    expected = (3, 0, "Black") if gender == "0" else (1, 1, "Others")
    assert found == {"a.jpg.chip.jpg": expected}


def test_a_gender_that_pixels_of_utkface_do_not_have(tmp_path):
    header = ("age", "ethnicity", "gender", "img_name", "pixels")
    write_table(tmp_path / "age_gender.csv", header, [(26, 1, 2, "a.jpg", grey(0))])
    with pytest.raises(UserError, match=r"unknown gender class: .*row 2: .*found '2'"):
        prepare.survey("utkface", source=str(tmp_path))


def test_photographs_are_not_taken_for_crops(tmp_path):
    images(tmp_path, *(f"{part}/{trees.UTK[0]}" for part in ("part1", "part2")))
    with pytest.raises(
        UserError, match=r"not a UTKFace folder: .*--dataset=utkface --utk=wild --faces --source"
    ):
        prepare.survey("utkface", source=str(tmp_path))


@pytest.mark.parametrize(
    ("age", "label"),
    [("(0, 2)", 0), ("(4, 6)", 1), ("(8, 12)", None), ("(60, 100)", None), ("35", 4), ("None", None)],
)
@pytest.mark.parametrize("pictures", ["aligned", "faces"])
def test_ages_of_adience_in_either_folder(tmp_path, age, label, pictures):
    prefix = {"aligned": "landmark_aligned_face", "faces": "coarse_tilt_aligned_face"}[pictures]
    trees._adience(tmp_path / "raw", pictures, prefix)
    path = tmp_path / "raw" / "fold_0_data.txt"
    path.write_text(path.read_text().replace("(4, 6)", age))
    row = rows("adience", tmp_path / "raw", tmp_path, "fold_0")[0]
    assert row.labels.get("age") == label and row.labels["gender"] == 1
    assert row.image.is_file() and row.columns["user"] == "30601258@N03"


@pytest.mark.parametrize(
    ("dataset", "make", "lacks", "says"),
    [
        ("adience", trees._adience, "aligned", "no images"),
        ("lagenda", trees._lagenda, "lag_benchmark", "no photographs"),
        ("imdb_clean", trees._imdb, "data", "no images"),
        ("fairface", trees._fairface, "train", "no images for the label file"),
        ("celeba", trees._celeba, "img_align_celeba", "no images"),
        ("celeba", trees._celeba, "list_eval_partition.txt", "no such label file"),
        ("vggface2", trees._vggface2, "identity_meta.csv", "no such label file"),
    ],
)
def test_what_is_missing_and_what_lies_there(tmp_path, dataset, make, lacks, says):
    make(tmp_path / "raw")
    (tmp_path / "raw" / lacks).rename(tmp_path / "away")
    (tmp_path / "raw" / "something else").mkdir()
    with pytest.raises(UserError, match=rf"{says}: .*found .*something else/.* in {tmp_path / 'raw'}"):
        prepare.survey(dataset, source=str(tmp_path / "raw"))


def test_rejections_have_their_reasons(tmp_path):
    images(tmp_path / "raw" / "UTKFace", *trees.UTK, *trees.BAD_UTK)
    found = rows("utkface", tmp_path / "raw", tmp_path, "test")
    assert [row.reason for row in found if isinstance(row, Rejection)] == [
        "an impossible age",
        *["the name lacks age, gender or race"] * 2,
    ]
