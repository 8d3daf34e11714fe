"""Parquet: what is refused, ids, and reading in pieces. Its layouts are in tests/data/layouts."""

import json
import sys

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from softbio_jax.data import sources
from softbio_jax.data.builders import arrow
from softbio_jax.data.builders.parquet import Parquet
from softbio_jax.data.prepare import prepare
from softbio_jax.errors import UserError
from tests.data.layouts.general import parquet, struct
from tests.data.trees import by_id, encode, prepared_split, write_image

SEXES = {"gender": ["male", "female"]}


def _survey(path, **options):
    return prepare.survey("parquet", source=str(path), **options)


def test_images_labels_and_audit_columns_come_in_unchanged(tmp_path):
    columns = {"image": struct(1, 2), "gender": [1, 0], "race": ["a", "b"], "age": [34.0, float("nan")]}
    parquet(tmp_path / "raw" / "train-00000-of-00001.parquet", columns, names=SEXES)
    dataset, report = prepared_split(
        "parquet", tmp_path / "raw", tmp_path / "out", "train", age_values="years"
    )
    assert by_id(dataset, "gender", "age") == {"1.jpg": (1, 4), "2.jpg": (0, -1)}
    assert [dataset[row] for row in range(2)] == [encode(1), encode(2)]
    assert dataset.columns["race"].tolist() == ["a", "b"]
    assert dataset.columns["years"].tolist() == ["34", ""]
    assert prepare.read_report(tmp_path / "out")["protocol"]["column_path"] == "image"
    assert report["kept"] == 2


@pytest.mark.parametrize(
    ("first", "second", "ids"),
    [
        ("a.jpg", "b.jpg", ["a.jpg", "b.jpg"]),
        ("0.jpg", "0.jpg", ["train-00000-of-00002.parquet#0", "train-00001-of-00002.parquet#0"]),
        ("0.jpg", None, ["train-00000-of-00002.parquet#0", "train-00001-of-00002.parquet#0"]),
    ],
)
def test_ids_are_the_paths_where_all_are_different(tmp_path, first, second, ids):
    for shard, path in enumerate((first, second)):
        image = [{"bytes": encode(shard), "path": path}]
        parquet(tmp_path / "raw" / f"train-{shard:05d}-of-00002.parquet", {"image": image, "gender": ["m"]})
    dataset, _ = prepared_split("parquet", tmp_path / "raw", tmp_path / "out", "train")
    assert dataset.columns["id"].tolist() == ids


@pytest.mark.parametrize("rows_per_group", [8, 1000])
def test_a_file_is_read_in_pieces(tmp_path, rows_per_group):
    rng = np.random.default_rng(0)
    size, count = 100_000, 200
    images = [rng.bytes(size) for _ in range(count)]
    # What is read at a time is at least a page, which pyarrow ends after 1,024 rows by default.
    options = {"row_group_size": rows_per_group, "use_dictionary": False, "write_batch_size": 8}
    parquet(tmp_path / "0.parquet", {"image": images, "sex": ["m"] * count}, **options)
    del images
    before, most = pyarrow.total_allocated_bytes(), 0
    builder = Parquet(
        source=str(tmp_path), data_dir=tmp_path / "out", columns={"path": "image", "gender": "sex"}
    )
    sizes = []
    for row in builder.rows("train"):
        sizes.append(len(row.image))
        most = max(most, pyarrow.total_allocated_bytes() - before)
    assert sizes == [size] * count
    assert most < 0.25 * size * count


def test_a_survey_reads_few_images(tmp_path, monkeypatch):
    parquet(tmp_path / "0.parquet", {"image": struct(*[1] * 300), "sex": ["m"] * 300}, row_group_size=100)
    read, original = [], arrow._image
    monkeypatch.setattr(arrow, "_image", lambda value: read.append(1) or original(value))
    assert _survey(tmp_path)["train"].classes == {"gender": (300, 0)}
    assert len(read) < 100


def test_photographs_are_noticed(tmp_path):
    images = [encode(seed, size=(480, 640)) for seed in range(3)]
    parquet(tmp_path / "0.parquet", {"image": images, "sex": ["m"] * 3})
    with pytest.raises(UserError, match="photographs instead of faces"):
        _survey(tmp_path)


@pytest.mark.parametrize(
    "images",
    [
        [{"bytes": encode(1), "path": None}, None, {"bytes": None, "path": None}],
        [encode(1), None, b""],
        pyarrow.array([list(encode(1)), None, []], pyarrow.list_(pyarrow.uint8())),
        pyarrow.array([list(encode(1)), [1, 256], [-1]], pyarrow.list_(pyarrow.int16())),
        [[{"bytes": encode(1), "path": None}], [], struct(2, 3)],
    ],
    ids=["structs", "binary", "lists", "numbers that are no bytes", "several"],
)
def test_rows_without_one_image_are_rejected(tmp_path, images):
    parquet(tmp_path / "raw" / "0.parquet", {"image": images, "sex": ["m"] * 3})
    options = {"columns": {"path": "image", "gender": "sex"}}
    found = _survey(tmp_path / "raw", **options)["train"]
    assert sum(found.rejected.values()) == 2
    _, report = prepared_split(
        "parquet", tmp_path / "raw", tmp_path / "out", "train", max_rejected=0.9, **options
    )
    assert (report["kept"], report["rejected"]) == (1, 2)
    assert {row["path"] for row in report["rejected_rows"]} == {"0.parquet#1", "0.parquet#2"}
    assert all("row 2" in row["where"] or "row 3" in row["where"] for row in report["rejected_rows"])


@pytest.mark.parametrize(
    ("columns", "names", "options", "says"),
    [
        ({"gender": [0, 1]}, None, {}, r"unknown gender class.*row 1.*--values=gender:0=CLASS"),
        ({"gender": [1, 2]}, None, {}, r"unknown gender class.*found '1'"),
        ({"emotion": [0, 3]}, None, {}, r"unknown emotion class.*different orders"),
        ({"age": [0, 3]}, None, {}, r"unknown age class.*--age_values=years"),
        ({"gender": [0, 5]}, SEXES, {}, r"no class of the column 'gender'.*expected 0 to 1, found 5"),
        (
            {"emotion": [0, 0]},
            {"emotion": ["happy", "contempt"]},
            {},
            r"unknown emotion class.*column 'emotion'.*found 'contempt'; fix: .*--values=emotion:contempt=",
        ),
        (
            {"gender": [0, 1]},
            SEXES,
            {"values": {"gender:0": "female"}},
            r"the file has names for its classes.*expected male, female, found '0'",
        ),
        (
            {"gender": ["m", "f"]},
            None,
            {"columns": {"path": "image", "age": "years"}},
            "column is missing.*years",
        ),
        ({"gender": ["m", "f"], "sex": ["m", "f"]}, None, {}, "two columns that may be the gender"),
        ({"height": [1, 2]}, None, {}, r"the columns are not named: .*image, height"),
    ],
)
def test_mistakes(tmp_path, columns, names, options, says):
    parquet(tmp_path / "raw" / "0.parquet", {"image": struct(1, 2)} | columns, names=names)
    with pytest.raises(UserError, match=says):
        prepare.prepare("parquet", source=str(tmp_path / "raw"), out=tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_the_names_of_a_file_decide_not_its_numbers(tmp_path):
    for order in (["female", "male"], ["male", "female"]):
        path = tmp_path / f"{order[0]}.parquet"
        parquet(path, {"image": struct(1, 2, 3), "label": [0, 0, 1]}, names={"label": order})
        counts = _survey(path)["train"].classes["gender"]
        assert counts == ((2, 1) if order[0] == "male" else (1, 2))


def test_names_in_the_older_form(tmp_path):
    """A dict of number -> name, and numbers of -1 for no label."""
    path = tmp_path / "0.parquet"
    features = {
        "image": {"_type": "Image"},
        "label": {"names": {"1": "male", "0": "female"}, "_type": "ClassLabel"},
    }
    table = pyarrow.table({"image": struct(1, 2, 3), "label": [0, 1, -1]})
    about = json.dumps({"info": {"features": features}})
    pyarrow.parquet.write_table(table.replace_schema_metadata({"huggingface": about}), path)
    found = _survey(path)["train"]
    assert (found.classes, found.rows) == ({"gender": (1, 1)}, 3)


@pytest.mark.parametrize("about", [b"no JSON", b"[]", b'{"info": null}', b'{"info": {"features": 3}}'])
def test_odd_descriptions_are_no_names(tmp_path, about):
    table = pyarrow.table({"image": struct(1), "sex": ["m"]}).replace_schema_metadata({"huggingface": about})
    pyarrow.parquet.write_table(table, tmp_path / "0.parquet")
    assert _survey(tmp_path)["train"].classes == {"gender": (1, 0)}


def test_files_that_are_not_complete(tmp_path):
    parquet(tmp_path / "whole.parquet", {"image": struct(1), "sex": ["m"]})
    whole = (tmp_path / "whole.parquet").read_bytes()
    for name, content in (
        ("cut", whole[:-20]),
        ("empty", b""),
        ("text", b"file,age\n"),
        ("torn", whole[:4] + whole[600:]),
    ):
        (tmp_path / f"{name}.parquet").write_bytes(content)
        with pytest.raises(
            UserError, match=rf"not a complete Parquet file: .*{name}.parquet.*download it again"
        ):
            prepare.prepare("parquet", source=str(tmp_path / f"{name}.parquet"), out=tmp_path / "out")


def test_files_of_one_split_are_all_there(tmp_path):
    parquet(tmp_path / "train-00001-of-00003.parquet", {"image": struct(1), "sex": ["m"]})
    with pytest.raises(UserError, match=r"some of the files are missing.*expected 3 like .*found 1"):
        _survey(tmp_path)


def test_two_versions_of_the_data(tmp_path):
    for version in ("0.25", "1.25"):
        parquet(tmp_path / version / "train.parquet", {"image": struct(1), "sex": ["m"]})
    with pytest.raises(UserError, match=r"several versions.*0.25/ and 1.25/; fix: .*--source=\S*1.25"):
        _survey(tmp_path)


def test_without_pyarrow_the_extra_is_named(tmp_path, monkeypatch):
    parquet(tmp_path / "0.parquet", {"image": struct(1), "sex": ["m"]})
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match=r"Parquet needs pyarrow.*pip install 'softbio-jax\[parquet\]'"):
        _survey(tmp_path)


def test_a_subject_is_in_one_part(tmp_path):
    people = [f"p{number // 3}" for number in range(30)]
    parquet(
        tmp_path / "raw" / "0.parquet", {"image": struct(*range(30)), "sex": ["m"] * 30, "identity": people}
    )
    prepare.prepare("parquet", source=str(tmp_path / "raw"), out=tmp_path / "out", split=0.7)
    parts = [
        set(sources.open_prepared(tmp_path / "out", part).columns["identity"]) for part in ("train", "test")
    ]
    assert not parts[0] & parts[1]
    assert parts[0] | parts[1] == set(people)


@pytest.mark.parametrize("kind", ["parquet", "csv"])
@pytest.mark.parametrize(
    ("splits", "says"),
    [
        (["train", "../x"], r"not a split's name: .*all\.\w+ column 'split'.*found '\.\./x'"),
        (["train", ""], "not a split's name"),
        (["train", "Train"], r"splits that differ in case alone.*found 'Train' and 'train'"),
    ],
)
def test_splits_that_are_no_names_are_refused(tmp_path, kind, splits, says):
    if kind == "csv":
        (tmp_path / "all.csv").write_text("image,sex,split\n1.jpg,m,{}\n2.jpg,f,{}\n".format(*splits))
        for number in (1, 2):
            write_image(tmp_path / f"{number}.jpg", number)
    else:
        parquet(tmp_path / "all.parquet", {"image": struct(1, 2), "sex": list("mf"), "split": splits})
    with pytest.raises(UserError, match=says):
        prepare.prepare(kind, source=str(tmp_path / f"all.{kind}"), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_column_of_splits(tmp_path):
    parquet(
        tmp_path / "all.parquet", {"image": struct(1, 2, 3), "sex": list("mfm"), "split": ["a", "b", "a"]}
    )
    found = _survey(tmp_path)
    assert {split: part.classes["gender"] for split, part in found.items()} == {"a": (2, 0), "b": (0, 1)}


def test_paths_below_another_folder(tmp_path):
    write_image(tmp_path / "pictures" / "a.jpg", 1)
    parquet(tmp_path / "0.parquet", {"file": ["a.jpg", "b.jpg"], "sex": ["m", "f"]})
    found = _survey(tmp_path / "0.parquet", images=str(tmp_path / "pictures"))["train"]
    assert (found.rows, found.missing) == (2, 1)


def test_inner_columns_are_named_with_a_dot(tmp_path):
    labels = [{"sex": "m", "age": 30}, {"sex": "f", "age": None}]
    parquet(tmp_path / "0.parquet", {"image": struct(1, 2), "labels": labels})
    columns = {"path": "image", "gender": "labels.sex", "age": "labels.age"}
    found = _survey(tmp_path, columns=columns, age_values="years")["train"]
    assert found.classes["gender"] == (1, 1)
    assert sum(found.classes["age"]) == 1


def test_bytes_that_are_words(tmp_path):
    parquet(tmp_path / "0.parquet", {"image": struct(1, 2), "sex": [b"m", b"f"]})
    assert _survey(tmp_path)["train"].classes == {"gender": (1, 1)}
