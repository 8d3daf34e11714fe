import gzip
import json

import pytest

from softbio_jax.data.prepare import prepare
from softbio_jax.errors import UserError
from tests.data.layouts.tree import images
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


@pytest.mark.parametrize(
    ("name", "split"),
    [("test.csv", "test"), ("val_labels.csv", "val"), ("labels.csv", "train"), ("contest.csv", "train")],
)
def test_one_table_is_the_split_in_its_name(tmp_path, name, split):
    write_image(tmp_path / "0.jpg", 0)
    write_table(tmp_path / name, ("file", "sex"), [("0.jpg", "m")])
    assert list(prepare.survey("csv", source=str(tmp_path / name))) == [split]


@pytest.mark.parametrize("mark", [",", ";", "\t", "|"])
@pytest.mark.parametrize(("zipped", "columns"), [(False, {"path": "file", "age": "how, old"}), (True, None)])
def test_what_separates_the_values_is_found(tmp_path, mark, zipped, columns):
    write_image(tmp_path / "0.jpg", 0)
    name = '"how, old"' if columns else "age"
    text = f'file{mark}note{mark}{name}\n0.jpg{mark}"a,b;c|d"{mark}20-29\n'.encode()
    path = tmp_path / ("labels.csv.gz" if zipped else "labels.csv")
    path.write_bytes(gzip.compress(text) if zipped else text)
    assert prepare.survey("csv", source=str(path), columns=columns)["train"].classes["age"][3] == 1


def test_a_damaged_archive_is_one_line(tmp_path):
    path = tmp_path / "labels.csv.gz"
    whole = gzip.compress(b"file,age\n" + b"".join(b"%d.jpg,20-29\n" % i for i in range(9999)))
    for content in (whole[:-9], whole[:40] + b"torn" + whole[44:]):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"a damaged gzip file: .*labels.csv.gz|not a table"):
            prepare.survey("csv", source=str(path))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"file": "0.jpg", "age": "20-29"}\n{"file": ', r"not JSON: .*line 2"),
        ('{"file": "0.jpg", "age": "20-29", "age": "3-9"}', r"the key 'age' is ambiguous: .*line 1"),
        ('"file"\n', r"not a row: .*line 1"),
        ('[{"file": "0.jpg", "age": "20-29"}, 3]', r"not a row: .*object 2"),
        ('{"file": "0.jpg", "sex": "m"}', r"a column is missing: .*expected age"),
        ("", r"a column is missing: .*expected"),
        ("[" * 100_000, r"not JSON"),
    ],
)
def test_json_that_is_no_table(tmp_path, text, says):
    write_image(tmp_path / "0.jpg", 0)
    (tmp_path / "labels.jsonl").write_text(text)
    columns = {"path": "file", "age": "age"}
    with pytest.raises(UserError, match=says):
        prepare.survey("csv", source=str(tmp_path / "labels.jsonl"), columns=columns)


def test_json_rows_with_gaps_and_inner_objects(tmp_path):
    rows = [
        {"image": {"path": "0.jpg"}, "labels": {"sex": "m", "age": 34}},
        {"image": {"path": "1.jpg"}, "labels": {"sex": None}},
        {"image": {"path": "2.jpg"}, "labels": {"age": 3.0, "note": "x"}},
    ]
    images(tmp_path, "0.jpg", "1.jpg", "2.jpg")
    (tmp_path / "labels.jsonl").write_text("\n\n".join(map(json.dumps, rows)))
    columns = {"path": "image.path", "gender": "labels.sex", "age": "labels.age"}
    source = str(tmp_path / "labels.jsonl")
    found = prepare.survey("csv", source=source, columns=columns, age_values="years")["train"]
    assert (found.labelled, found.classes["gender"]) == (2, (1, 0))
    assert sum(found.classes["age"]) == 2


@pytest.mark.parametrize(
    ("header", "row", "says"),
    [
        (
            ("file", "image_path", "sex"),
            ("0.jpg", "0.jpg", "m"),
            "two columns that may be the path: .*labels.csv",
        ),
        (("file", "age", "age_group"), ("0.jpg", "34", "30-39"), r"two columns.*--columns=age=age,\.\.\."),
        (("file", "sex", "Sex"), ("0.jpg", "m", "m"), "two columns that may be the gender"),
        (("sex", "note"), ("m", "0.jpg"), "the columns are not named.*labels.csv has sex, note"),
        (("file", "label"), ("0.jpg", "3"), "the columns are not named"),
        (("file", "label"), ("0.jpg", ""), "the columns are not named"),
    ],
)
def test_columns_that_cannot_be_guessed(tmp_path, header, row, says):
    write_image(tmp_path / "0.jpg", 0)
    write_table(tmp_path / "labels.csv", header, [row])
    with pytest.raises(UserError, match=says):
        prepare.survey("csv", source=str(tmp_path / "labels.csv"))


def test_named_columns_are_never_joined_by_guessed_tasks(tmp_path):
    write_image(tmp_path / "0.jpg", 0)
    write_table(tmp_path / "labels.csv", ("file", "age", "sex"), [("0.jpg", "?", "m")])
    found = prepare.survey("csv", source=str(tmp_path / "labels.csv"), columns={"gender": "sex"})["train"]
    assert found.classes == {"gender": (1, 0)}


@pytest.mark.parametrize(
    ("column", "words", "counts"),
    [
        ("Male", ("1", "-1", "-1"), (1, 2)),
        ("is_male", ("True", "False", "0"), (1, 2)),
        ("Female", ("1", "0", "0"), (2, 1)),
    ],
)
def test_columns_that_say_yes_or_no(tmp_path, column, words, counts):
    images(tmp_path, *(f"{i}.jpg" for i in range(3)))
    write_table(
        tmp_path / "labels.csv", ("file", column), [(f"{i}.jpg", word) for i, word in enumerate(words)]
    )
    assert prepare.survey("csv", source=str(tmp_path / "labels.csv"))["train"].classes["gender"] == counts


def test_a_task_left_out_masks_the_row_and_leaves_the_others(tmp_path):
    rows = [("0.jpg", "contempt", "m"), ("1.jpg", "Contempt ", ""), ("2.jpg", "joy", "f")]
    images(tmp_path / "raw", *(row[0] for row in rows))
    write_table(tmp_path / "raw" / "labels.csv", ("file", "emotion", "sex"), rows)
    source, values = tmp_path / "raw" / "labels.csv", {"emotion:contempt": ""}
    dataset, report = prepared_split("csv", source, tmp_path / "out", "train", values=values)
    assert by_id(dataset, "emotion", "gender") == {"0.jpg": (-1, 0), "2.jpg": (3, 1)}
    assert report["masked_by_reason"] == {"emotion: emotion 'contempt' is left out": 1}
    assert report["skipped_by_reason"] == {"emotion 'Contempt' is left out": 1}


@pytest.mark.parametrize("path", ["0.JPG", "0", "0.png", "A/../0.jpg", "ROOT/0.jpg"])
def test_paths_in_other_case_without_a_suffix_or_absolute(tmp_path, path):
    write_image(tmp_path / "0.jpg", 0)
    absolute = path.replace("ROOT", str(tmp_path))
    write_table(tmp_path / "labels.csv", ("file", "sex"), [(absolute, "m")])
    if ".." in path:
        with pytest.raises(UserError, match="leaves the data folder"):
            prepare.survey("csv", source=str(tmp_path / "labels.csv"))
    else:
        found = prepare.survey("csv", source=str(tmp_path / "labels.csv"))["train"]
        assert (found.labelled, found.missing) == (1, 0)


def test_odd_paths_end_no_survey(tmp_path):
    write_image(tmp_path / "0.jpg", 0)
    rows = [("0.jpg", "m"), ("a" * 400 + ".jpg", "m"), ("a\0.jpg", "m")]
    write_table(tmp_path / "labels.csv", ("file", "sex"), rows)
    source = str(tmp_path / "labels.csv")
    assert prepare.survey("csv", source=source)["train"].missing == 2
    report = prepare.prepare("csv", source=source, out=tmp_path / "out", max_rejected=0.9)
    assert (report["splits"]["train"]["kept"], report["splits"]["train"]["rejected"]) == (1, 2)


def test_a_folder_of_several_tables_asks_which(tmp_path):
    for name in ("a.csv", "b.csv"):
        write_table(tmp_path / name, ("file", "sex"), [("0.jpg", "m")])
    with pytest.raises(
        UserError, match=r"several tables: .*--source=\S*a.csv, or --source=\S*a.csv,\S*b.csv"
    ):
        prepare.survey("csv", source=str(tmp_path))


@pytest.mark.parametrize(
    ("age", "kinds", "fixed"),
    [
        ("60+", "range", ["range"]),
        ("25-32", "range", ["range"]),
        ("34", "years", ["years", "range"]),
        ("34 years", "years", ["years", "range"]),
        ("twenties", "", []),
    ],
)
def test_an_age_that_is_no_class_names_the_flag_that_reads_it(tmp_path, age, kinds, fixed):
    for split in ("train", "test"):
        images(tmp_path, f"{split}.jpg")
    write_table(tmp_path / "labels.csv", ("path", "age"), [("train.jpg", age), ("test.jpg", "3-9")])

    def read(kind):
        return prepare.survey("csv", source=tmp_path / "labels.csv", age_values=kind)["train"].labelled

    with pytest.raises(UserError, match="unknown age class") as caught:
        read("class")
    named = [kind for kind in ("years", "range") if f"--age_values={kind}" in str(caught.value)]
    assert named == ([kinds] if kinds else [])
    for kind in fixed:
        assert read(kind) == 2


@pytest.mark.parametrize(
    ("column", "text", "says"),
    [
        ("years", "2013", "not an age or a range of ages"),
        ("years", "12", "an age that contradicts the label: .*expected years of the class 20-29"),
        ("age_group", "3", "an age that contradicts the label"),
        ("age_range", "adult", "not an age or a range of ages"),
        ("votes_age", "1 2 3", "not votes: .*expected 9 numbers.*one number per class with spaces between"),
        ("votes_age", "0 0 0 0 0 0 0 0 0", "votes that are all zero"),
    ],
)
def test_an_audit_column_with_the_name_of_a_label_must_be_one(tmp_path, column, text, says):
    images(tmp_path, "0.jpg")
    write_table(tmp_path / "labels.csv", ("path", "age", column), [("0.jpg", "20-29", text)])
    roles = {"path": "path", "age": "age", column: column}
    with pytest.raises(UserError, match=rf"{says}.*in --columns: own_{column}={column}$") as caught:
        prepare.survey("csv", source=tmp_path / "labels.csv", columns=roles)
    assert f"labels.csv row 2 column {column!r}" in str(caught.value)
    roles = {"path": "path", "age": "age", f"own_{column}": column}
    assert prepare.survey("csv", source=tmp_path / "labels.csv", columns=roles)["train"].labelled == 1


def test_votes_keep_a_row_without_a_label_and_years_the_column_of_ages(tmp_path):
    images(tmp_path, "0.jpg", "1.jpg")
    rows = [("0.jpg", "25", "", "1 3", ""), ("1.jpg", "", "", "[2, 0]", "41")]
    write_table(tmp_path / "labels.csv", ("path", "age", "gender", "votes_gender", "years"), rows)
    roles = {name: name for name in ("path", "age", "gender", "votes_gender", "years")}
    dataset, report = prepared_split(
        "csv", tmp_path / "labels.csv", tmp_path / "out", "train", columns=roles, age_values="years"
    )
    assert by_id(dataset, "age", "gender") == {"0.jpg": (3, -1), "1.jpg": (-1, -1)}
    assert dataset.columns["years"].tolist() == ["25", "41"]
    assert report["masked_by_reason"] == {"gender: votes without a label": 2}
    assert report["labels"]["gender"] == {"full": 1, "partial": 1, "none": 0}


def test_votes_in_another_order_are_told(tmp_path):
    for number in range(20):
        images(tmp_path, f"{number}.jpg")
    rows = [(f"{number}.jpg", "male", "1 9") for number in range(20)]
    write_table(tmp_path / "labels.csv", ("path", "gender", "votes_gender"), rows)
    roles = {name: name for name in ("path", "gender", "votes_gender")}
    with pytest.raises(UserError, match=r"votes in another order: .* column .votes_gender.*0 of 20"):
        prepare.survey("csv", source=tmp_path / "labels.csv", columns=roles)


@pytest.mark.parametrize("text", ["", "path,gender\n"])
def test_a_table_without_rows_says_so(tmp_path, text):
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(UserError, match=r"a table without rows: .*labels\.csv: expected a header and a row"):
        prepare.survey("csv", source=tmp_path / "labels.csv")


def test_paths_to_another_folder_are_read_by_the_flag_that_the_error_names(tmp_path):
    images(tmp_path / "faces", "0.jpg")
    (tmp_path / "tables").mkdir()
    source = tmp_path / "tables" / "labels.csv"
    write_table(source, ("path", "gender"), [(str(tmp_path / "faces" / "0.jpg"), "male")])
    with pytest.raises(UserError, match=r"leaves the data folder: .*fix: pass --images, the folder"):
        prepare.survey("csv", source=source)
    assert prepare.survey("csv", source=source, images=str(tmp_path / "faces"))["train"].labelled == 1
