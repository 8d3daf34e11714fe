import pytest

from softbio_jax.data.prepare import prepare
from softbio_jax.errors import UserError
from tests.data.trees import by_id, prepared_split, write_image, write_table

COLUMNS = {"path": "file", "age": "how old", "gender": "sex", "origin": "country"}


def _tree(root, rows, *, header=("file", "how old", "sex", "country", "part")):
    for number in range(4):
        write_image(root / "images" / f"{number}.jpg", number)
    write_table(root / "labels.csv", header, rows)
    return root / "labels.csv"


def test_named_columns_and_mapped_words(tmp_path):
    rows = [
        ("images/0.jpg", "20-29", "W", "de", "train"),
        ("images\\1.jpg", "more than 70", "M", "it", "train"),
        ("images/2.jpg", "unknown", "", "it", "train"),
        ("images/3.jpg", "NA", "Woman", "fr", "test"),
    ]
    dataset, report = prepared_split(
        "csv",
        _tree(tmp_path, rows),
        tmp_path / "out",
        "train",
        columns=COLUMNS | {"split": "part"},
        values={"gender:W": "female"},
    )
    assert by_id(dataset, "age", "gender") == {"images/0.jpg": (3, 1), "images/1.jpg": (8, 0)}
    assert dataset.columns["origin"].tolist() == ["de", "it"]
    assert report["skipped_by_reason"] == {"no label": 1}


def test_years_and_another_image_folder(tmp_path):
    source = _tree(tmp_path, [("0.jpg", "34.5", "m", "", "")])
    dataset, _ = prepared_split(
        "csv",
        source,
        tmp_path / "out",
        "train",
        columns=COLUMNS,
        images=str(tmp_path / "images"),
        age_values="years",
    )
    assert by_id(dataset, "age", "gender") == {"0.jpg": (4, 0)}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"columns": {"image": "country", "path": "file"}}, "the name 'image' is taken"),
        ({"columns": {"path": "file", "origin": "country"}}, "unknown gender class"),
        ({"columns": COLUMNS | {"age": "years"}}, "column is missing.*'years'"),
        ({"columns": COLUMNS, "values": {"gender:W": "woman?"}}, "not a class to map to"),
        ({"columns": COLUMNS, "values": {"mood:W": "happy"}}, "not a class to map to"),
        ({"columns": COLUMNS}, "unknown gender class: .*row 2.*--values=gender:W=CLASS"),
    ],
)
def test_mistakes(tmp_path, options, says):
    source = _tree(tmp_path, [("images/0.jpg", "20-29", "W", "", "")])
    with pytest.raises(UserError, match=says):
        prepare.survey("csv", source=str(source), **options)


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (("train.csv", "test.csv"), ("train", "test")),
        (("train_labels.csv", "gt_avg_valid.csv"), ("train", "val")),
        (("Training-list.csv", "morph_2.csv"), ("train", "morph_2")),
        (("train/labels.csv", "test/labels.csv"), ("train", "test")),
    ],
)
def test_a_table_for_each_split(tmp_path, names, splits):
    for number, name in enumerate(names):
        write_image((tmp_path / name).parent / f"{number}.jpg", number)
        write_table(tmp_path / name, ("file", "sex"), [(f"{number}.jpg", "mf"[number])])
    source = ",".join(str(tmp_path / name) for name in names)
    columns = {"path": "file", "gender": "sex"}
    report = prepare.prepare("csv", source=source, out=tmp_path / "out", columns=columns)
    counts = {
        split: tuple(part["class_counts"]["gender"].values()) for split, part in report["splits"].items()
    }
    assert counts == dict(zip(splits, ((1, 0), (0, 1)), strict=True))


def test_tables_with_a_column_of_splits(tmp_path):
    for number, name in enumerate(("morph_1", "morph_2")):
        rows = [(f"{i}.jpg", "mf"[i], "ab"[i]) for i in range(2)]
        for i in range(2):
            write_image(tmp_path / name / f"{i}.jpg", 2 * number + i)
        write_table(tmp_path / name / f"{name}.csv", ("file", "sex", "part"), rows)
    source = ",".join(str(tmp_path / name / f"{name}.csv") for name in ("morph_1", "morph_2"))
    columns = {"path": "file", "gender": "sex", "split": "part"}
    dataset, report = prepared_split("csv", source, tmp_path / "out", "a", columns=columns)
    assert by_id(dataset, "gender") == {"morph_1/0.jpg": (0,), "morph_2/0.jpg": (0,)}
    assert report["rejected"] == 0


def test_two_tables_of_one_split(tmp_path):
    with pytest.raises(UserError, match=r"two tables of the split 'train': --source: found .*train_2.csv"):
        prepare.survey("csv", source="train_1.csv,train_2.csv", columns=COLUMNS)
