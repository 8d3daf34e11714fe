import csv
import io
import json

import pytest

from softbio_jax.data.faces import Face
from softbio_jax.errors import UserError
from softbio_jax.inference.bulk.table import PredictionTable, columns
from softbio_jax.inference.predictor import Prediction
from softbio_jax.tasks import AGE, GENDER

TASKS = (AGE, GENDER)


def prediction(face=None):
    return Prediction(
        classes={"age": "20-29", "gender": "female"},
        probabilities={"age": dict.fromkeys(AGE.classes, 1 / 9), "gender": {"male": 0.25, "female": 0.75}},
        expected_age=31.456,
        face=face,
    )


def found(*lefts):
    return [prediction(Face(box=(x, 1.0, x + 9.6, 11.0), confidence=0.987654321)) for x in lefts]


# A crop, a photograph of three, a name that CSV quotes, and two frames of a video.
IMAGES = [
    ("a.jpg", None, [prediction()]),
    ("b.jpg", None, found(3, 30, 60)),
    ('c, "d".jpg', None, found(5, 50)),
    ("é.mp4", 0.0, found(1)),
    ("é.mp4", 1.0004, found(2, 20)),
]


def open_table(path, form="csv", model="m@1"):
    return PredictionTable(path, stream=io.StringIO(), form=form, tasks=TASKS, model=model)


def fill(table, images=IMAGES):
    for name, seconds, predictions in images:
        if not table.done(name, seconds):
            table.write(name, seconds, predictions)
    table.close()


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_a_file_cut_off_anywhere_ends_as_if_never_cut(form, tmp_path):
    whole = tmp_path / "whole"
    fill(open_table(whole, form))
    data = whole.read_bytes()
    assert data.count(b"\n") == 9 + (form == "csv")
    cut = tmp_path / "cut"
    for length in range(0, len(data) + 1, 7):
        cut.write_bytes(data[:length])
        fill(open_table(cut, form))
        assert cut.read_bytes() == data, length


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_complete_images_are_done_and_the_last_frame_is_known(form, tmp_path):
    path = tmp_path / "t"
    fill(open_table(path, form))
    table = open_table(path, form)
    assert table.done("b.jpg") and table.done("é.mp4", 1.0) and not table.done("é.mp4")
    assert table.last_seconds("é.mp4") == 1.0 and table.last_seconds("b.jpg") is None
    table.close()
    before = path.read_bytes()
    lines = before.splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1]))  # the second face of the last frame
    table = open_table(path, form)
    assert not table.done("é.mp4", 1.0) and table.last_seconds("é.mp4") == 0.0
    table.close()
    assert path.read_bytes() == b"".join(lines[:-2])


def test_rows_say_what_was_predicted(tmp_path):
    fill(open_table(tmp_path / "t.csv"))
    fill(open_table(tmp_path / "t.jsonl", "jsonl"))
    with (tmp_path / "t.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    lines = [json.loads(line) for line in (tmp_path / "t.jsonl").read_text().splitlines()]
    assert [row["input"] for row in table] == [line["input"] for line in lines]
    first, second = table[0], table[1]
    assert first["age"] == "20-29" and first["gender_female"] == "0.75"
    assert first["expected_age"] == "31.46" and first["face"] == first["x0"] == ""
    assert (second["face"], second["faces"], second["x1"], second["confidence"]) == (
        "0",
        "3",
        "13",
        "0.987654",
    )
    assert "x0" not in lines[0] and lines[1]["x1"] == 13 and lines[1]["gender_male"] == 0.25
    assert list(table[0]) == columns(TASKS)
    assert all(set(line) <= set(table[0]) for line in lines)


def test_another_files_rows_are_not_changed(tmp_path):
    path = tmp_path / "t.csv"
    fill(open_table(path))
    for content, says in (
        (path.read_bytes(), "rows of m@2.*m@1"),
        (b"id,age\n1,2\n", "the columns of this model.*id,age"),
        (path.read_bytes() + b"a,b\n", "rows of this program.*a,b"),
    ):
        path.write_bytes(content)
        with pytest.raises(UserError, match=says):
            open_table(path, model="m@2" if "m@2" in says else "m@1")
        assert path.read_bytes() == content


def test_without_a_path_rows_go_to_the_stream():
    stream = io.StringIO()
    table = PredictionTable(None, stream=stream, form="csv", tasks=TASKS, model="m@1")
    fill(table)
    assert not stream.closed
    assert stream.getvalue().count("\n") == 10
