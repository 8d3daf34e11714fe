"""What the numbers, codes and boxes of the data sets of emotions mean, and who is in their images."""

import pytest

from softbio_jax.data.builders import BUILDERS
from softbio_jax.data.prepare import prepare
from softbio_jax.data.prepare.rows import Rejection, Row, Skip
from softbio_jax.errors import UserError
from softbio_jax.tasks import EMOTION
from tests.data.layouts import emotion as trees
from tests.data.layouts.sets import class_folders, fer_table, text
from tests.data.trees import prepared_split, write_image, write_table

# From the releases' own readme files, number by number.
FER2013 = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
RAF_DB = ("surprise", "fear", "disgust", "happy", "sad", "angry", "neutral")
AFFECTNET = ("neutral", "happy", "sad", "surprise", "fear", "disgust", "angry", None)
COHN_KANADE = ("neutral", "angry", None, "disgust", "fear", "happy", "sad", "surprise")
CK_TABLE = (*FER2013, None)
YOLO = ("angry", None, "disgust", "fear", "happy", "neutral", "sad", "surprise")


def outcomes(dataset, root, tmp_path, split="train", **options):
    builder = BUILDERS[dataset](source=str(root), data_dir=tmp_path / "scratch", **options)
    assert split in builder.splits()
    return list(builder.rows(split))


def emotions(found):
    """Lists the emotions of rows, None for one that is omitted."""
    return [EMOTION.classes[row.labels["emotion"]] if isinstance(row, Row) else None for row in found]


def _numbered_folders(root, count, first=0, mode="RGB"):
    class_folders(root / "train", *(str(number) for number in range(first, first + count)), mode=mode)


def _sequences(root):
    for number in range(8):
        name = f"S{number:03d}/001/S{number:03d}_001_0000000"
        for frame in (1, 2):
            write_image(root / f"cohn-kanade-images/{name}{frame}.png", 10 * number + frame, kind="PNG")
        text(root / f"Emotion/{name}2_emotion.txt", f"   {number}.0000000e+00")


@pytest.mark.parametrize(
    ("dataset", "make", "names"),
    [
        ("rafdb", lambda root: _numbered_folders(root, 7, first=1), RAF_DB),
        ("affectnet", lambda root: _numbered_folders(root, 8), AFFECTNET),
        ("affectnet", lambda root: trees._affectnet_notes(root), AFFECTNET),
        ("affectnet", lambda root: trees._affectnet_yolo(root), YOLO),
        ("affectnet", lambda root: trees._affectnet_yolo(root, trees.YOLO[::-1]), YOLO[::-1]),
        ("fer2013", lambda root: _numbered_folders(root, 7, mode="L"), FER2013),
        (
            "fer2013",
            lambda root: fer_table(root / "fer2013.csv", [(n, "Training") for n in range(7)]),
            FER2013,
        ),
        ("fer2013", lambda root: trees._fer_challenge(root), FER2013),
        ("ck_plus", _sequences, COHN_KANADE),
        (
            "ck_plus",
            lambda root: fer_table(root / "ckextended.csv", [(n, "Training") for n in range(8)]),
            CK_TABLE,
        ),
        ("expw", lambda root: trees._expw(root), (*FER2013, None)),
    ],
)
def test_numbers_mean_what_the_releases_say(tmp_path, dataset, make, names):
    make(tmp_path / "raw")
    assert emotions(outcomes(dataset, tmp_path / "raw", tmp_path)) == list(names)


def test_the_codes_in_names_of_jaffe(tmp_path):
    trees._jaffe(tmp_path / "raw")
    found = outcomes("jaffe", tmp_path / "raw", tmp_path)
    codes = {"AN": "angry", "DI": "disgust", "FE": "fear", "HA": "happy", "NE": "neutral"}
    codes |= {"SA": "sad", "SU": "surprise"}
    for row, name in zip(found, emotions(found), strict=True):
        if isinstance(row, Row):
            assert name == codes[row.id.split(".")[1][:2]]
            assert row.columns["identity"] == row.id[:2]
    assert emotions(found).count(None) == 1  # the readme


def test_an_unknown_code_of_jaffe_is_rejected(tmp_path):
    for number, name in enumerate(("KA.AN1.39.tiff", "KA.XX1.40.tiff", "KA.jpg")):
        write_image(tmp_path / "raw" / name, number)
    found = outcomes("jaffe", tmp_path / "raw", tmp_path)
    assert [type(row) for row in found] == [Row, Rejection, Rejection]


def test_the_peak_of_a_sequence_and_its_subject(tmp_path):
    trees._ck_sequences(tmp_path / "raw")
    found = outcomes("ck_plus", tmp_path / "raw", tmp_path)
    assert [(row.id, row.columns["identity"]) for row in found if isinstance(row, Row)] == [
        ("S005/001/S005_001_00000011.png", "S005"),
        ("S010/002/S010_002_00000011.png", "S010"),
    ]
    assert [row.reason for row in found if isinstance(row, Skip)] == ["a sequence without an emotion"]


def test_the_subject_of_a_cropped_image(tmp_path):
    trees._ck_48(tmp_path / "raw")
    rows = [row for row in outcomes("ck_plus", tmp_path / "raw", tmp_path) if isinstance(row, Row)]
    assert [row.columns["identity"] for row in rows] == [row.id.split("/")[1][:4] for row in rows]


def test_a_face_of_expw_is_cut_out(tmp_path):
    root = tmp_path / "raw"
    write_image(root / "image" / "origin" / "a.jpg", 0, size=(20, 40))
    # Top 2, left 5, right 25, bottom 18.
    text(root / "label" / "label.lst", "a.jpg 0 2 5 25 18 70.5 3", "a.jpg 1 2 5 25 18 70.5 9")
    with pytest.raises(UserError, match=r"label.lst line 2: .*found '9'"):
        prepare.survey("expw", source=str(root))
    text(root / "label" / "label.lst", "a.jpg 0 2 5 25 18 70.5 3")
    dataset, _ = prepared_split("expw", root, tmp_path / "out", "train")
    from softbio_jax.data import decode

    assert decode.decode_full(dataset[0]).shape == (16, 20, 3)
    assert dataset.columns["photograph"].tolist() == ["a.jpg"]


@pytest.mark.parametrize(
    ("votes", "name"),
    [
        ({"fear": 6, "sadness": 4}, "fear"),
        ({"fear": 5, "sadness": 5}, None),
        ({"contempt": 6, "anger": 4}, None),
        ({"NF": 10}, None),
    ],
)
def test_votes_of_a_label_file(tmp_path, votes, name):
    counts = ",".join(str(votes.get(one, 0)) for one in trees.VOTES)
    write_image(tmp_path / "raw" / "FER2013Train" / "fer0000000.png", 0, kind="PNG")
    text(tmp_path / "raw" / "FER2013Train" / "label.csv", f'fer0000000.png,"(0, 0, 48, 48)",{counts}')
    found = outcomes("ferplus", tmp_path / "raw", tmp_path)
    assert emotions(found) == [name]


def test_the_table_of_affectnet_counts_and_not_its_folders(tmp_path):
    trees._affectnet_paths(tmp_path / "raw")
    found = outcomes("affectnet", tmp_path / "raw", tmp_path)
    assert dict(zip((row.id for row in found if isinstance(row, Row)), emotions(found), strict=False)) == {
        f"{folder}/image{number}.jpg": "sad" if number == 0 else name
        for number, (folder, name) in enumerate(zip(trees.AFFECTNET, AFFECTNET, strict=True))
        if name
    }


def test_an_image_of_two_boxes_is_rejected(tmp_path):
    trees._affectnet_yolo(tmp_path / "raw")
    text(tmp_path / "raw/YOLO_format/train/labels/3.txt", "3 0.5 0.5 0.1 0.1", "4 0.2 0.2 0.1 0.1")
    (tmp_path / "raw/YOLO_format/train/labels/4.txt").unlink()
    found = outcomes("affectnet", tmp_path / "raw", tmp_path)
    assert [row.reason for row in found if isinstance(row, Rejection)] == [
        f"{number} boxes instead of one" for number in (2, 0)
    ]


def test_omitted_classes_are_counted_by_name(tmp_path):
    class_folders(tmp_path / "raw" / "train", "happy", "contempt", "Contemptuous", "no_face", end=".png")
    _, report = prepared_split("ferplus", tmp_path / "raw", tmp_path / "out", "train")
    assert report["kept"] == 1
    assert report["skipped_by_reason"] == {"expression contempt": 2, "expression no-face": 1}


def test_a_folder_that_is_no_class_is_named(tmp_path):
    class_folders(tmp_path / "raw" / "MMAFEDB" / "train", "happy", "asleep")
    with pytest.raises(UserError, match=r"unknown emotion class: .*train/asleep: .*found 'asleep'"):
        prepare.survey("mma_fer", source=str(tmp_path / "raw"))


@pytest.mark.parametrize("folder", ["test", "Valid", "aligned"])
def test_the_folder_of_one_split(tmp_path, folder):
    class_folders(tmp_path / folder, *FER2013)
    splits = prepare.survey("fer2013", source=str(tmp_path / folder))
    assert list(splits) == [{"test": "test", "Valid": "val"}.get(folder, "train")]


def test_images_at_any_depth_of_a_class(tmp_path):
    for number, path in enumerate(("happy/happy/a.jpg", "happy/b.jpg")):
        write_image(tmp_path / "raw" / "train" / path, number)
    (tmp_path / "raw" / "train" / "happy" / "Thumbs.db").write_bytes(b"x")
    found = outcomes("fer2013", tmp_path / "raw", tmp_path)
    assert emotions(found).count("happy") == 2
    assert [row.path for row in found if isinstance(row, Skip)] == ["train/happy/Thumbs.db"]


def test_a_usage_of_the_table_of_ck_plus(tmp_path):
    fer_table(tmp_path / "ckextended.csv", [(0, "Training"), (1, "Sometimes")])
    with pytest.raises(UserError, match=r"unknown usage: .*row 3: .*found 'Sometimes'"):
        prepare.survey("ck_plus", source=str(tmp_path))


def test_a_short_row_of_pixels_is_rejected(tmp_path):
    write_table(tmp_path / "ckextended.csv", ("emotion", "pixels", "Usage"), [(3, "1 2 3", "Training")])
    (row,) = outcomes("ck_plus", tmp_path, tmp_path)
    assert row.reason == "3 pixels instead of 2304"
