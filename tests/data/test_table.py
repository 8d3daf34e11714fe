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
        ({"columns": {"path": "file"}}, "the columns are not named"),
        ({"columns": {"age": "how old"}}, "the columns are not named"),
        ({"columns": COLUMNS | {"image": "x"}}, "the name 'image' is taken"),
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
