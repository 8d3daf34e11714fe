import pytest

from softbio_jax.data.prepare import tables
from softbio_jax.errors import UserError
from softbio_jax.escaping import csv_line


def test_reads_rows_with_their_numbers(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_bytes(b'\xef\xbb\xbfName, Age\r\na, 3\r\n\r\n"b, c", 4\r\n')
    assert list(tables.read_csv(path, columns=("Name", "Age"))) == [
        (f"{path} row 2", {"Name": "a", "Age": "3"}),
        (f"{path} row 4", {"Name": "b, c", "Age": "4"}),
    ]


@pytest.mark.parametrize("name", ["=1.png", "'=1.png", "@a/b.png", "+a, b.png", "-1", "'a.png", "a'=.png"])
def test_reads_what_our_own_tables_guard(tmp_path, name):
    path = tmp_path / "labels.csv"
    path.write_text(csv_line(["file", "age"]) + csv_line([name, "-3.5"]))
    assert [row for _, row in tables.read_csv(path, columns=("file", "age"))] == [
        {"file": name, "age": "-3.5"}
    ]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"Name,Years\na,3\n", ("row 1", "Age", "Years")),
        (b"", ("row 1", "empty")),
        (b"Name,Age\na\n", ("row 2", "2 values")),
        ("Name,Age\nJos\u00e9,3\n".encode("cp1252"), ("UTF-8", "0xe9")),
    ],
)
def test_broken_tables(tmp_path, content, says):
    path = tmp_path / "labels.csv"
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        list(tables.read_csv(path, columns=("Name", "Age")))
    for part in ("labels.csv", *says):
        assert part in str(error.value)


def test_missing_table(tmp_path):
    with pytest.raises(UserError, match="no such label file"):
        list(tables.read_csv(tmp_path / "labels.csv", columns=()))


@pytest.mark.parametrize("name", ["train/1.jpg", "train\\1.jpg", "./train//1.jpg"])
def test_paths_inside(tmp_path, name):
    assert tables.inside(tmp_path, name, where="row 2") == tmp_path / "train" / "1.jpg"


@pytest.mark.parametrize("name", ["../x.jpg", "a/../../x.jpg", "/etc/x.jpg", "C:\\x.jpg", ""])
def test_paths_that_leave_the_folder(tmp_path, name):
    with pytest.raises(UserError, match=r"leaves the data folder.*row 2"):
        tables.inside(tmp_path, name, where="row 2")
