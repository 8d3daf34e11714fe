"""Mistakes in labels and their tables."""

import numpy as np

from softbio_jax.data.audit import expected
from tests.data.trees import FAIRFACE_HEADER, make_fairface, write_image, write_table
from tests.mistakes.running import Mistake

_STANDARD = ("Path", "Gender", "Age", "Ethnicity", "Facial Emotion", "Identity")


def _survey(sandbox, dataset, source, *flags):
    return lambda: sandbox.script(
        "prepare_data.py", f"--dataset={dataset}", f"--source={source}", "--dry_run", *flags
    )


def _csv(sandbox, task, values, *flags):
    """A table of a task's `values`, with one image per row."""
    table = sandbox.tmp / "labels.csv"
    for i in range(len(values)):
        write_image(sandbox.tmp / f"{i}.jpg", i)
    write_table(table, ("file", task), [(f"{i}.jpg", v) for i, v in enumerate(values)])
    return _survey(sandbox, "csv", table, f"--columns=path=file,{task}={task}", *flags)


def _standard(sandbox, *, gender="", age="", emotion="", flags=()):
    """Standard labels: lists of values, one per row."""
    rows = []
    for i in range(max(len(gender), len(age), len(emotion))):
        write_image(sandbox.tmp / "train" / f"{i}.jpg", i, size=(8, 8))
        values = [given[i] if given else "" for given in (gender, age, emotion)]
        rows.append((f"train/{i}.jpg", *values[:2], "", values[2], ""))
    write_table(sandbox.tmp / "train" / "labels.csv", _STANDARD, rows)
    return _survey(sandbox, "standard", sandbox.tmp, *flags)


def _known(sandbox, *, emotion=None, gender=None):
    """Replaces the counts of a known set by small ones; no test has a complete copy."""
    counts = {"gender": gender, "emotion": emotion}
    counts = {task: tuple(values) for task, values in counts.items() if values}
    rows = sum(next(iter(counts.values())))
    for key in (("fairface", "train"), ("rafdb", "train")):
        sandbox.patch.setitem(expected.CLASS_COUNTS, key, {"rows": (rows,), **counts})


def _swapped_genders(sandbox, wrong):
    _known(sandbox, gender=(14, 6))
    names = ("Female", "Male") if wrong else ("Male", "Female")
    rows = []
    for i in range(20):
        write_image(sandbox.tmp / "train" / f"{i}.jpg", i, size=(8, 8))
        rows.append((f"train/{i}.jpg", "20-29", names[i >= 14], "White", "TRUE"))
    write_table(sandbox.tmp / "fairface_label_train.csv", FAIRFACE_HEADER, rows)
    return _survey(sandbox, "fairface", sandbox.tmp)


def _genders_as_numbers(sandbox, wrong):
    given = () if wrong else ("--values=gender:0=male,gender:1=female",)
    return _csv(sandbox, "gender", (0, 1, 1), *given)


def _fer_order(sandbox, wrong):
    """FER's numbering, which starts with angry, in labels that start with surprise."""
    ours = (3, 1, 2, 9, 5, 4, 6)
    _known(sandbox, emotion=ours)
    fer = (5, 2, 1, 3, 4, 0, 6)  # ours -> FER's
    return _standard(sandbox, emotion=[fer[c] if wrong else c for c, n in enumerate(ours) for _ in range(n)])


def _one_based_emotions(sandbox, wrong):
    return _standard(sandbox, emotion=[c + wrong for c in range(7)])


def _one_based_ages(sandbox, wrong):
    return _standard(sandbox, age=[c + wrong for c in range(9)])


def _years_for_classes(sandbox, wrong):
    return _standard(sandbox, age=["3", "34"] if wrong else ["0", "4"])


def _years_in_csv(sandbox, wrong):
    return _csv(sandbox, "age", (3, 34), *(() if wrong else ("--age_values=years",)))


def _classes_for_years(sandbox, wrong):
    ages = np.random.default_rng(0).integers(0, 9, 30).tolist()
    return _standard(sandbox, age=ages, flags=("--age_values=years",) if wrong else ())


def _years_of_birth(sandbox, wrong):
    return _csv(sandbox, "age", (1985 if wrong else 34, 25), "--age_values=years")


def _decimal_commas(sandbox, wrong):
    run = _csv(sandbox, "age", ("29.5", "34"), "--age_values=years")
    table = sandbox.tmp / "labels.csv"
    if wrong:
        table.write_text(table.read_text().replace("29.5", "29,5"))
    return run


def _other_bins(sandbox, wrong):
    return _csv(sandbox, "age", ("20-29", "4-12" if wrong else "3-9"))


def _reversed_range(sandbox, wrong):
    return _csv(sandbox, "age", ("20-29", "19-4" if wrong else "4-19"), "--age_values=range")


def _dates(sandbox, wrong):
    source = make_fairface(sandbox.tmp, train=2, val=1)
    if wrong:
        table = source / "fairface_label_train.csv"
        table.write_text(table.read_text().replace(",3-9,", ",03-Sep,"))
    return _survey(sandbox, "fairface", source)


def _dates_in_csv(sandbox, wrong):
    return _csv(sandbox, "age", ("20-29", "Oct-19" if wrong else "10-19"))


def _foreign_word(sandbox, wrong):
    return _csv(sandbox, "emotion", ("happy", "contempt" if wrong else "anger"))


def _missing_column(sandbox, wrong):
    header = ("file", "sex" if wrong else "gender")
    write_image(sandbox.tmp / "0.jpg", 0)
    write_table(sandbox.tmp / "labels.csv", header, [("0.jpg", "male")])
    return _survey(sandbox, "csv", sandbox.tmp / "labels.csv", "--columns=path=file,gender=gender")


def _utf16(sandbox, wrong):
    """The encoding of a spreadsheet's "Unicode text"; a byte order mark alone is accepted."""
    run = _csv(sandbox, "gender", ("male", "female"))
    table = sandbox.tmp / "labels.csv"
    table.write_text(table.read_text(), encoding="utf-16" if wrong else "utf-8-sig")
    return run


def _wrong_root(sandbox, wrong):
    for i in range(3):
        write_image(sandbox.tmp / "photos" / f"{i}.jpg", i)
    rows = [(f"{i}.jpg", "male") for i in range(3)]
    write_table(sandbox.tmp / "labels.csv", ("file", "gender"), rows)
    flags = () if wrong else (f"--images={sandbox.tmp}/photos",)
    return lambda: sandbox.script(
        "prepare_data.py",
        "--dataset=csv",
        f"--source={sandbox.tmp}/labels.csv",
        "--columns=path=file,gender=gender",
        f"--out={sandbox.tmp}/out",
        *flags,
    )


def _no_label(sandbox, wrong):
    _csv(sandbox, "gender", ("unknown", "") if wrong else ("male", ""))
    flags = ("--dataset=csv", f"--source={sandbox.tmp}/labels.csv", f"--out={sandbox.tmp}/out")
    return lambda: sandbox.script("prepare_data.py", *flags, "--columns=path=file,gender=gender")


MISTAKES = (
    Mistake(
        name="Male and female exchanged in a known data set",
        make=_swapped_genders,
        cause=r"gender.*expected male 14, female 6.*found male 6",
        fix="correct the labels.*male is female, female is male",
    ),
    Mistake(
        name="Genders as 0 and 1 in a custom table",
        make=_genders_as_numbers,
        cause=r"gender.*row 2.*found '0'",
        fix="--values=gender:0=CLASS",
    ),
    Mistake(
        name="Emotions numbered in the order of FER2013",
        make=_fer_order,
        cause="emotion.*expected surprise 3.*found surprise 4",
        fix="surprise is angry",
    ),
    Mistake(
        name="Emotions counted from 1, as in RAF-DB's lists",
        make=_one_based_emotions,
        cause="emotion.*expected 0 to 6, found '7'",
        fix="subtract 1",
    ),
    Mistake(
        name="Age classes counted from 1",
        make=_one_based_ages,
        cause="age.*expected 0 to 8, found '9'",
        fix="subtract 1",
    ),
    Mistake(
        name="Ages in years where classes are expected",
        make=_years_for_classes,
        cause="age.*found '34'",
        fix="--age_values=years",
    ),
    Mistake(
        name="Ages in years in a custom table",
        make=_years_in_csv,
        cause="age.*row 2.*found '3'",
        fix="--age_values=years",
    ),
    Mistake(
        name="Age classes where years are expected",
        make=_classes_for_years,
        cause="column 'Age'.*found 30 .*0 to 8",
        fix="--age_values=class",
    ),
    Mistake(
        name="Years of birth for ages",
        make=_years_of_birth,
        cause="impossible age.*labels.csv row 2: expected 0 to 120 years, found 1985; fix: write the age",
        fix="repair the source",
    ),
    Mistake(
        name="Decimal commas",
        make=_decimal_commas,
        cause=r"row 2: expected 2 values, found 3 \(0.jpg,29,5\)",
        fix=r"write a point.*29\.5",
    ),
    Mistake(
        name="Age groups of another binning",
        make=_other_bins,
        cause="age.*found '4-12'",
        fix="4-12.*3-9 and 10-19",
    ),
    Mistake(
        name="A range of ages from old to young",
        make=_reversed_range,
        cause="reversed age range: .*labels.csv row 3: expected years or a range.*found '19-4'",
        fix="write 4-19",
    ),
    Mistake(
        name="Ages that a spreadsheet turned into dates",
        make=_dates,
        cause="date.*row 3.*expected 3-9, found '03-Sep'",
        fix="original file",
    ),
    Mistake(
        name="Dates for ages in a custom table",
        make=_dates_in_csv,
        cause="age.*found 'Oct-19'",
        fix="original file",
    ),
    Mistake(
        name="A class that the task does not have",
        make=_foreign_word,
        cause="emotion.*row 3.*'contempt'",
        fix="--values=emotion:contempt=",
    ),
    Mistake(
        name="A missing or misnamed column",
        make=_missing_column,
        cause="column.*expected file, gender, found file, sex",
        fix="column 'gender'",
    ),
    Mistake(
        name="A table that is not UTF-8",
        make=_utf16,
        cause="labels.csv byte 0: expected UTF-8",
        fix="iconv -f utf-16 -t utf-8",
    ),
    Mistake(
        name="Paths that start at another folder",
        make=_wrong_root,
        cause=r"split 'train'.*3 of 3 \(0.jpg",
        fix="--images",
    ),
    Mistake(name="No usable label at all", make=_no_label, cause="split 'train'.*no label", fix="label rows"),
)
