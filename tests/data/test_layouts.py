"""Layouts in which people have known data sets: each comes in as it is."""

import numpy as np
import pytest

from softbio_jax.data import sources
from softbio_jax.data.prepare import prepare
from softbio_jax.errors import UserError
from softbio_jax.tasks import EMOTION
from tests.data.trees import by_id, encode, prepared_split, write_image, write_table

RAF_DB = ("surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral")  # 1 to 7


def _pixels(seed):
    return " ".join(map(str, np.random.default_rng(seed).integers(0, 256, 48 * 48)))


def _raf_folders(root, names, *, test="test"):
    for number, name in enumerate(names):
        write_image(root / "train" / name / f"train_{number:05d}_aligned.jpg", number)
        write_image(root / test / name / f"test_{number:04d}_aligned.jpg", 50 + number)
    return root


@pytest.mark.parametrize("names", [[str(n) for n in range(1, 8)], RAF_DB], ids=["numbers", "names"])
@pytest.mark.parametrize(("inner", "test", "split"), [("", "test", "test"), ("DATASET", "valid", "val")])
def test_rafdb_in_class_folders(tmp_path, names, inner, test, split):
    _raf_folders(tmp_path / "raw" / inner, names, test=test)
    dataset, report = prepared_split("rafdb", tmp_path / "raw", tmp_path / "out", split)
    assert by_id(dataset, "emotion") == {
        f"{test}/{name}/test_{number:04d}_aligned.jpg": (number,) for number, name in enumerate(names)
    }
    assert list(dataset.labels) == ["emotion"]
    assert set(report["class_counts"]["emotion"].values()) == {1}
    protocol = prepare.read_report(tmp_path / "out")["protocol"]
    assert (protocol["raf_filter"], protocol["layout"]) == ("official", "class folders")


def test_rafdb_numbers_that_are_not_its_classes(tmp_path):
    _raf_folders(tmp_path / "few", [str(n) for n in range(6)])
    with pytest.raises(UserError, match="not a RAF-DB folder"):
        prepare.survey("rafdb", source=str(tmp_path / "few"))
    _raf_folders(tmp_path / "more", [str(n) for n in range(1, 9)])
    with pytest.raises(UserError, match=r"unknown emotion class: .*expected 1 surprise.*found '8'"):
        prepare.survey("rafdb", source=str(tmp_path / "more"))


@pytest.mark.parametrize("table", ["EmoLabel/list_patition_label.txt", "list_patition_label.txt"])
@pytest.mark.parametrize("images", ["Image/aligned", "aligned"])
def test_rafdb_with_the_label_list_alone(tmp_path, table, images):
    root = tmp_path / "raw"
    for number in range(1, 8):
        write_image(root / images / f"test_{number:04d}_aligned.jpg", number)
    write_image(root / images / "train_00001_aligned.jpg", 9)
    (root / table).parent.mkdir(exist_ok=True)
    lines = [f"test_{number:04d}.jpg {number}\n" for number in range(1, 8)]
    (root / table).write_text("train_00001.jpg 5\n" + "".join(lines))
    dataset, _ = prepared_split("rafdb", root, tmp_path / "out", "test")
    assert dataset.labels["emotion"].tolist() == list(range(7))
    assert list(dataset.labels) == ["emotion"]


@pytest.mark.parametrize(
    ("name", "header", "order"),
    [
        ("fer2013.csv", ("emotion", "pixels", "Usage"), (0, 1, 2)),
        ("icml_face_data.csv", ("emotion", " Usage", " pixels"), (0, 2, 1)),
        ("fer2013.csv", ("emotion", " Usage", " pixels"), (0, 2, 1)),
        ("fer2013/fer2013.csv", ("emotion", "pixels", "Usage"), (0, 1, 2)),
    ],
)
def test_fer2013_tables(tmp_path, name, header, order):
    rows = [(3, _pixels(0), "Training"), (6, _pixels(1), "PublicTest"), (0, _pixels(2), "PrivateTest")]
    write_table(tmp_path / "raw" / name, header, [[row[column] for column in order] for row in rows])
    dataset, report = prepared_split("fer2013", tmp_path / "raw", tmp_path / "out", "train")
    assert by_id(dataset, "emotion") == {"fer0000000.png": (EMOTION.classes.index("happy"),)}
    assert report["kept"] == 1
    assert len(sources.open_prepared(tmp_path / "out", "test")) == 1


def test_fer2013_table_of_the_challenge(tmp_path):
    rows = [(3, _pixels(0)), (0, _pixels(1))]
    write_table(tmp_path / "raw" / "train.csv", ("emotion", "pixels"), rows)
    write_table(tmp_path / "raw" / "test.csv", ("pixels",), [(_pixels(2),)])
    report = prepare.prepare("fer2013", source=str(tmp_path / "raw"), out=tmp_path / "out")
    assert {split: part["kept"] for split, part in report["splits"].items()} == {"train": 2}


def test_fer2013_without_usage(tmp_path):
    write_table(tmp_path / "fer2013.csv", ("emotion", "pixels"), [(3, _pixels(0))])
    with pytest.raises(UserError, match=r"a column is missing: .*expected .*Usage"):
        prepare.survey("fer2013", source=str(tmp_path))


@pytest.mark.parametrize(
    ("bad", "reason"), [("256", "a pixel above 255"), ("9" * 30, "a pixel is not a number")]
)
def test_fer2013_pixels_out_of_range(tmp_path, bad, reason):
    rows = [(3, _pixels(0), "Training"), (3, bad + _pixels(1)[_pixels(1).index(" ") :], "Training")]
    rows += [(3, _pixels(2), usage) for usage in ("PublicTest", "PrivateTest")]
    write_table(tmp_path / "raw" / "fer2013.csv", ("emotion", "pixels", "Usage"), rows)
    _, report = prepared_split("fer2013", tmp_path / "raw", tmp_path / "out", "train", max_rejected=0.5)
    assert report["rejected_by_reason"] == {reason: 1}


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("53__0_20170116184028385.jpg", None),
        ("61_3_20170109150557335.jpg", None),
        ("39_1_20170116174525125.jpg.chip.jpg", None),
        ("_1_2_20170116174525125.jpg", None),
        ("24_0_1_20170116220224657 .jpg", (3, 0)),
        ("5_0_3_20161220222308131.JPG", (1, 0)),
        ("100_1_2_20170112.png", (8, 1)),
    ],
)
def test_utkface_names(tmp_path, name, label):
    write_image(tmp_path / "raw" / "UTKFace" / "1_0_0_1.jpg", 0)
    write_image(tmp_path / "raw" / "UTKFace" / name, 1)
    dataset, report = prepared_split("utkface", tmp_path / "raw", tmp_path / "out", "test", max_rejected=0.5)
    assert by_id(dataset, "age", "gender").get(name) == label
    assert [row["path"] for row in report["rejected_rows"]] == ([] if label else [name])


@pytest.mark.parametrize(
    "name",
    ['"C,_Jr."', "C,_Jr.", '"D_""E""_F,_Dr."', '"\\"W\\"_Y"', "Plain", '"Two, commas, here"', "a, b, c"],
)
@pytest.mark.parametrize("end", ["", ","])
def test_vggface2_names_with_commas(tmp_path, name, end):
    root = tmp_path / "raw"
    for folder, split in (("train", "train"), ("validation", "val")):
        write_image(root / folder / "n000002" / "0001_01.jpg", len(split))
    meta = f"Class_ID, Name, Sample_Num, Flag, Gender\nn000002, {name}, 300, 1, f{end}\n"
    (root / "identity_meta.csv").write_text(meta)
    report = prepare.prepare("vggface2", source=str(root), out=tmp_path / "out")
    assert {s: part["class_counts"]["gender"]["female"] for s, part in report["splits"].items()} == {
        "train": 1,
        "val": 1,
    }


@pytest.mark.parametrize("name", [b"mu\xf1oz.jpg", b"\xe9\xff.jpg"])
@pytest.mark.parametrize("folder", ["happy", "sad"])
def test_names_that_are_not_utf8(tmp_path, name, folder):
    root = tmp_path / "raw" / "train" / folder
    write_image(root / "0.jpg", 0)
    path = root / name.decode("utf-8", "surrogateescape")
    path.write_bytes(encode(1))
    dataset, _ = prepared_split("folder", tmp_path / "raw", tmp_path / "out", "train", task="emotion")
    told = "".join(chr(byte) if byte < 128 else f"\\x{byte:02x}" for byte in name)
    ids = dataset.columns["id"].tolist()
    assert sorted(ids) == sorted([f"train/{folder}/0.jpg", f"train/{folder}/{told}"])
    assert dataset[ids.index(f"train/{folder}/{told}")] == encode(1)


def test_a_broken_image_is_rejected_by_a_name_that_can_be_printed(tmp_path):
    root = tmp_path / "raw" / "train" / "happy"
    write_image(root / "0.jpg", 0)
    (root / b"\xf1.jpg".decode("utf-8", "surrogateescape")).write_bytes(b"")
    _, report = prepared_split(
        "folder", tmp_path / "raw", tmp_path / "out", "train", task="emotion", max_rejected=0.5
    )
    assert [row["path"] for row in report["rejected_rows"]] == ["train/happy/\\xf1.jpg"]


AFFECTNET = ("neutral", "happy", "sad", "surprise", "fear", "disgust", "anger", "contempt")  # 0 to 7


@pytest.mark.parametrize("names", [[str(n) for n in range(8)], AFFECTNET], ids=["numbers", "names"])
@pytest.mark.parametrize(("folder", "split"), [("val", "val"), ("valid", "val"), ("test", "test")])
def test_affectnet_in_class_folders(tmp_path, names, folder, split):
    root = tmp_path / "raw"
    for number, name in enumerate(names):
        write_image(root / "train" / name / "0.jpg", number)
        write_image(root / folder / name / "0.jpg", 20 + number)
    dataset, report = prepared_split("affectnet", root, tmp_path / "out", split)
    assert by_id(dataset, "emotion") == {
        f"{folder}/{name}/0.jpg": (EMOTION.classes.index(word.replace("anger", "angry")),)
        for name, word in zip(names[:7], AFFECTNET[:7], strict=True)
    }
    assert report["skipped_by_reason"] == {"expression contempt": 1}


def test_affectnet_folders_that_are_not_its_classes(tmp_path):
    for name in ("0", "1", "2"):
        write_image(tmp_path / "few" / "train" / name / "0.jpg", 0)
    with pytest.raises(UserError, match="not an AffectNet folder"):
        prepare.survey("affectnet", source=str(tmp_path / "few"))
    for name in (*AFFECTNET, "other"):
        write_image(tmp_path / "more" / "train" / name / "0.jpg", 0)
    with pytest.raises(UserError, match=r"unknown emotion class: .*other.*found 'other'"):
        prepare.survey("affectnet", source=str(tmp_path / "more"))


@pytest.mark.parametrize("dataset", ["rafdb", "affectnet", "vggface2"])
def test_two_folders_of_one_split(tmp_path, dataset):
    for name in ("train", "val", "valid"):
        write_image(tmp_path / name / "happy" / "0.jpg", 0)
    with pytest.raises(UserError, match=r"two folders of the split 'val': .*found val/ and valid/"):
        prepare.survey(dataset, source=str(tmp_path))
