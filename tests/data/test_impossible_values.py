"""Values that parse but cannot be right: refused with their row, before anything is written."""

import pytest

from softbio_jax.data.labels import OLDEST
from softbio_jax.data.prepare import prepare, tables
from softbio_jax.data.prepare.rows import impossible_age
from softbio_jax.errors import UserError
from tests.data.trees import by_id, prepared_split, write_image, write_table

YEARS = {"columns": {"path": "file", "age": "age"}, "age_values": "years"}


def _ages(root, ages, *, name="{}.jpg"):
    for number in range(len(ages)):
        write_image(root / name.format(number), number)
    rows = [(name.format(number), age) for number, age in enumerate(ages)]
    write_table(root / "labels.csv", ("file", "age"), rows)
    return root / "labels.csv"


@pytest.mark.parametrize("years", [0, 0.4, 71, OLDEST])
def test_possible_ages(years):
    assert impossible_age("0.jpg", years) is None


@pytest.mark.parametrize(
    ("age", "found", "fix"),
    [
        ("1985", "found 1985", "not a year"),
        ("2014", "found 2014", "not a year"),
        ("121", "found 121", "correct or delete"),
        ("999", "found 999", "correct or delete"),
        ("1e300", r"found 1e\+300", "correct or delete"),
        ("inf", "found inf", "correct or delete"),
        ("-31", "found -31", "correct or delete"),
    ],
)
def test_impossible_ages_are_rejected_with_their_row(tmp_path, age, found, fix):
    source = _ages(tmp_path / "raw", ["25", age, "71", "-1", ""])
    dataset, report = prepared_split("csv", source, tmp_path / "out", "train", max_rejected=0.5, **YEARS)
    assert by_id(dataset, "age") == {"0.jpg": (3,), "2.jpg": (8,)}
    assert report["skipped_by_reason"] == {"no label": 2}
    (rejected,) = report["rejected_rows"]
    assert rejected["path"] == "1.jpg"
    assert rejected["where"].endswith("labels.csv row 3")
    says = rf"1.jpg: an impossible age: .*row 3: expected 0 to 120 years, {found}; fix: .*{fix}"
    with pytest.raises(UserError, match=says):
        prepare.prepare("csv", source=str(source), out=tmp_path / "other", **YEARS)
    assert not (tmp_path / "other").exists()


def test_a_column_of_years_of_birth_is_one_line(tmp_path):
    source = _ages(tmp_path, [1960 + number for number in range(4)])
    with pytest.raises(UserError, match=r"no row can be used.*4 of 4.*an impossible age.*found 1960"):
        prepare.prepare("csv", source=str(source), out=tmp_path / "out", **YEARS)


@pytest.mark.parametrize(
    "ages", [[0, 1] * 10, [1, 2] * 10, [number / 40 for number in range(30)]], ids=["01", "12", "fractions"]
)
def test_the_column_of_another_value_is_not_taken_for_ages(tmp_path, ages):
    with pytest.raises(UserError, match=r"look like classes of two, or fractions.*column 'age'"):
        prepare.survey("csv", source=str(_ages(tmp_path, ages)), **YEARS)


def test_impossible_ages_of_data_sets(tmp_path):
    for number, name in enumerate(("26_0_1_1.jpg", "117_1_0_1.jpg", "212_1_0_1.jpg", "999_0_0_1.jpg")):
        write_image(tmp_path / "utk" / name, number)
    dataset, report = prepared_split("utkface", tmp_path / "utk", tmp_path / "out", "test", max_rejected=0.5)
    assert by_id(dataset, "age") == {"26_0_1_1.jpg": (3,), "117_1_0_1.jpg": (8,)}
    assert report["rejected_by_reason"] == {"an impossible age": 2}


@pytest.mark.parametrize("age", ["(0, 200)", "(32, 25)", "350"])
def test_impossible_ranges(tmp_path, age):
    (tmp_path / "aligned").mkdir()
    header = ("user_id", "original_image", "face_id", "age", "gender")
    (tmp_path / "fold_0_data.txt").write_text("\t".join(header) + f"\nu\t1.jpg\t9\t{age}\tm\n")
    with pytest.raises(UserError, match=r"not an age: .*row 2"):
        prepare.survey("adience", source=str(tmp_path))


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("a.jpg,29,5", r"row 2: expected 2 values, found 3 \(a.jpg,29,5\); fix: write a point .*29.5"),
        ("a.jpg,9,6,", "a row is too long.*row 2"),
        ("a,b.jpg,29", "too long.*put quotes"),
    ],
)
def test_rows_longer_than_the_header(tmp_path, row, says):
    path = tmp_path / "labels.csv"
    path.write_text(f"file,age\n{row}\n")
    with pytest.raises(UserError, match=says):
        list(tables.read_csv(path, columns=("file", "age")))


def test_empty_values_at_the_end_of_a_row_are_dropped(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text("file,age\na.jpg,29,,\n")
    assert [row for _, row in tables.read_csv(path, columns=("age",))] == [{"file": "a.jpg", "age": "29"}]


def test_a_free_column_holds_commas_without_quotes(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text('id, Name, n\n1, A, Jr., 3\n2, "B, C", 4,\n3, D, 5\n')
    rows = [row for _, row in tables.read_csv(path, columns=("id", "n"), free="Name")]
    assert [(row["Name"], row["n"]) for row in rows] == [("A,Jr.", "3"), ("B, C", "4"), ("D", "5")]


def test_a_column_that_is_there_twice(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text("file,age,,, age\na.jpg,29,1,2,30\n")
    with pytest.raises(UserError, match=r"the column 'age' is ambiguous.*row 1: found 2 of this name"):
        list(tables.read_csv(path, columns=("file", "age")))
    assert len(list(tables.read_csv(path, columns=("file",)))) == 1


@pytest.mark.parametrize(
    ("value", "says"), [("29,5", "decimal comma: 29.5"), ("2_5", "correct the row"), ("3 5", "correct")]
)
def test_what_is_no_number(value, says):
    with pytest.raises(UserError, match=f"not a number in column 'age'.*{says}"):
        tables.parse_number(value, where="row 2", column="age")


@pytest.mark.parametrize("value", ["nan", "inf", "1e300"])
def test_boxes_are_numbers_of_pixels(value):
    row = {"x0": "1", "y0": "2", "x1": value, "y1": "4"}
    with pytest.raises(UserError, match=rf"not a pixel in column 'x1': row 2.*found '{value}'"):
        tables.parse_box(row, tuple(row), where="row 2")


@pytest.mark.parametrize(
    ("start", "says"),
    [
        (b"PAR1", "a Parquet file instead of a text table.*--dataset=parquet"),
        (b"PK\x03\x04", "a spreadsheet or archive instead of a text table.*as CSV"),
        (b"\x1f\x8b\x08\0", "a damaged gzip file"),
    ],
)
def test_files_that_are_no_text(tmp_path, start, says):
    path = tmp_path / "labels.csv"
    path.write_bytes(start + b"\xff\xfe\n")
    with pytest.raises(UserError, match=says):
        list(tables.read_csv(path, columns=("file",)))


@pytest.mark.parametrize(
    ("text", "label"),
    [
        *(("25 years", 3), ("25 y/o", 3), ("25yrs old", 3), ("25.5", 3), ("3.0", 1), ("２５", 3), ("٢٥", 3)),
        *(("25-29", 3), ("(25, 29)", 3), ("25 to 29", 3), ("20–29", 3), ("70+", 8), ("over 75", 8)),
        *(("60-100", None), ("25-30", None), ("29-20", None), ("25 months", None), ("twenty", None)),
        *(("1990-03-04", None), ("04/03/1990", None), ("03-Sep", None), ("2²", None), ("+", None)),
    ],
)
def test_ages_in_years_that_are_no_numbers(tmp_path, text, label):
    source = _ages(tmp_path, [text, "44"])
    if label is None:
        with pytest.raises(UserError, match=r"not an age in years|not a number.*labels.csv row 2: .*; fix: "):
            prepare.survey("csv", source=str(source), **YEARS)
    else:
        found = prepare.survey("csv", source=str(source), **YEARS)["train"].classes["age"]
        assert [number for number, count in enumerate(found) if count] == sorted({label, 5})


@pytest.mark.parametrize(
    ("task", "text", "says"),
    [
        ("gender", "1", r"--values=gender:1=CLASS, for every number"),
        ("gender", "2", r"--values=gender:2=CLASS, for every number"),
        ("gender", "0.0", r"--values=gender:0.0=CLASS"),
        (
            "emotion",
            "3",
            r"--values=emotion:3=CLASS, for every number: data sets count classes in different orders",
        ),
        ("emotion", "male", r"the columns of emotion and gender look exchanged"),
        ("age", "m", r"the columns of age and gender look exchanged"),
        ("age", "1990-03-04", r"not a date"),
        ("age", "4-12", r"4-12 spans 3-9 and 10-19"),
        ("age", "(4, 12)", r"'--values=\"age:\(4, 12\)=CLASS\"'"),
        ("age", "31", r"--age_values=years"),
    ],
)
def test_words_of_no_class_name_the_row_and_the_likely_cause(tmp_path, task, text, says):
    words = {"age": "20-29", "gender": "male", "emotion": "joy"}
    if text == "m":
        words["gender"] = "34"
    write_image(tmp_path / "0.jpg", 0)
    row = ("0.jpg", *(words | {task: text}).values())
    write_table(tmp_path / "labels.csv", ("file", *words), [row])
    with pytest.raises(UserError, match=rf"unknown {task} class: .*labels.csv row 2: .*{says}"):
        prepare.survey("csv", source=str(tmp_path / "labels.csv"))


def test_numbers_of_a_table_with_gaps_are_those_of_values(tmp_path):
    """A column of integers with an empty cell is written as 1.0, 2.0."""
    for i in range(3):
        write_image(tmp_path / f"{i}.jpg", i)
    write_table(tmp_path / "labels.csv", ("file", "sex"), [("0.jpg", "1.0"), ("1.jpg", ""), ("2.jpg", "2")])
    values = {"gender:1": "male", "gender:2.0": "female"}
    assert prepare.survey("csv", source=str(tmp_path / "labels.csv"), values=values)["train"].classes == {
        "gender": (1, 1)
    }


@pytest.mark.parametrize("row", ["0.jpg,29,5", "0.jpg,29,5,"])
def test_a_value_below_a_header_without_a_name(tmp_path, row):
    path = tmp_path / "labels.csv"
    path.write_text(f"file,age,,\n{row}\n")
    with pytest.raises(UserError, match=r"a row is too long.*row 2: .*29.5"):
        list(tables.read_csv(path, columns=("file", "age")))


def test_a_survey_counts_what_will_be_rejected(tmp_path):
    source = _ages(tmp_path, ["25", "1985", "30"])
    source.write_text(source.read_text() + "0.jpg,26\n")
    found = prepare.survey("csv", source=str(source), **YEARS)["train"]
    assert found.rejected == {"an impossible age": 1, "duplicate row": 1}
    assert [row.path for row in found.first_rejected] == ["1.jpg", "0.jpg"]
    found.check_rejected("train", max_rejected=0.5)
    with pytest.raises(UserError, match=r"too many rows will be rejected: split 'train'.*2 of 4 .1.jpg"):
        found.check_rejected("train", max_rejected=0.4)
