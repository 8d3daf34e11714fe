import numpy as np
import pytest

from softbio_jax.data import sources
from softbio_jax.data.prepare import prepare
from softbio_jax.errors import UserError
from tests.data.trees import FAIRFACE_HEADER, make_fairface, write_table


def test_labels_and_columns(faces, prepared):
    np.testing.assert_array_equal(faces.labels["age"], np.arange(12) % 9)
    np.testing.assert_array_equal(faces.labels["gender"], np.arange(12) % 2)
    assert faces.columns["id"][3] == "train/4.jpg"
    assert set(faces.columns["race"]) == {"East Asian"}
    assert len(sources.open_prepared(prepared / "faces", "val")) == 5


def test_images_are_the_source_bytes(faces, prepared):
    for i in (0, 7, 11):
        assert faces[i] == (prepared / "raw_faces" / faces.columns["id"][i]).read_bytes()


def test_archive_folder(tmp_path):
    make_fairface(tmp_path, train=2, val=1)
    inner = tmp_path / "fairface-img-margin025-trainval"
    inner.mkdir()
    for split in ("train", "val"):
        (tmp_path / split).rename(inner / split)
    report = prepare.prepare("fairface", source=str(tmp_path), out=tmp_path / "out")
    assert report["splits"]["train"]["kept"] == 2


def _with_age(root, age):
    make_fairface(root, train=2, val=1)
    rows = [("train/1.jpg", "0-2", "Male", "White", "TRUE"), ("train/2.jpg", age, "Female", "White", "TRUE")]
    write_table(root / "fairface_label_train.csv", FAIRFACE_HEADER, rows)
    return str(root)


@pytest.mark.parametrize(("age", "label"), [("03-Sep", 1), ("9-Mar", 1), ("Oct-19", 2), ("19-Oct", 2)])
def test_ages_that_a_spreadsheet_mangled(tmp_path, age, label):
    source = _with_age(tmp_path, age)
    with pytest.raises(UserError) as error:
        prepare.prepare("fairface", source=source, out=tmp_path / "out")
    for part in ("fairface_label_train.csv row 3", repr(age), "--fix_excel_ages"):
        assert part in str(error.value)
    assert not (tmp_path / "out").exists()
    prepare.prepare("fairface", source=source, out=tmp_path / "out", fix_excel_ages=True)
    fixed = sources.open_prepared(tmp_path / "out", "train")
    assert fixed.labels["age"].tolist() == [0, label]


def test_a_date_that_is_no_age_is_not_guessed(tmp_path):
    source = _with_age(tmp_path, "12-May")
    with pytest.raises(UserError, match="'12-May'"):
        prepare.prepare("fairface", source=source, out=tmp_path / "out", fix_excel_ages=True)


def test_unknown_class(tmp_path):
    with pytest.raises(UserError, match=r"unknown age class: .*row 3: .*found '20-30'"):
        prepare.survey("fairface", source=_with_age(tmp_path, "20-30"))


def test_missing_column(tmp_path):
    make_fairface(tmp_path, train=1, val=1)
    write_table(tmp_path / "fairface_label_val.csv", ("file", "age"), [("val/1.jpg", "0-2")])
    with pytest.raises(UserError, match=r"a column is missing: .*fairface_label_val.csv row 1"):
        prepare.survey("fairface", source=str(tmp_path))


def test_missing_images_folder(tmp_path):
    write_table(tmp_path / "fairface_label_train.csv", FAIRFACE_HEADER, [])
    with pytest.raises(UserError, match="no images for the label file"):
        prepare.survey("fairface", source=str(tmp_path))


def test_missing_folder(tmp_path):
    with pytest.raises(UserError, match=r"no such folder: .*nowhere"):
        prepare.survey("fairface", source=str(tmp_path / "nowhere"))


def test_real_fairface(real_data, tmp_path):
    report = prepare.prepare("fairface", source=str(real_data / "fairface"), out=tmp_path / "out")
    train, val = report["splits"]["train"], report["splits"]["val"]
    assert (train["kept"], train["rejected"]) == (10_000, 0)
    assert (val["kept"], val["rejected"]) == (2_500, 0)
    # The majority floors that the folder's README gives.
    assert round(val["class_counts"]["age"]["20-29"] / 2500, 3) == 0.300
    assert round(val["class_counts"]["gender"]["male"] / 2500, 3) == 0.529
