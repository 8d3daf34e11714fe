"""Mistakes in labels and their tables."""

import numpy as np

from softbio_jax.data.audit import expected
from tests.data.trees import FAIRFACE_HEADER, make_fairface, write_image, write_table
from tests.mistakes.running import Mistake

_STANDARD = ("Path", "Gender", "Age", "Ethnicity", "Facial Emotion", "Identity")


def _survey(world, dataset, source, *flags):
    return lambda: world.script(
        "prepare_data.py", f"--dataset={dataset}", f"--source={source}", "--dry_run", *flags
    )


def _csv(world, task, values, *flags):
    """A table of a task's `values`, with a picture a row."""
    table = world.tmp / "labels.csv"
    for i in range(len(values)):
        write_image(world.tmp / f"{i}.jpg", i)
    write_table(table, ("file", task), [(f"{i}.jpg", v) for i, v in enumerate(values)])
    return _survey(world, "csv", table, f"--columns=path=file,{task}={task}", *flags)


def _standard(world, *, gender="", age="", emotion="", flags=()):
    """Standard labels: lists of values, one a row."""
    rows = []
    for i in range(max(len(gender), len(age), len(emotion))):
        write_image(world.tmp / "train" / f"{i}.jpg", i, size=(8, 8))
        values = [given[i] if given else "" for given in (gender, age, emotion)]
        rows.append((f"train/{i}.jpg", *values[:2], "", values[2], ""))
    write_table(world.tmp / "train" / "labels.csv", _STANDARD, rows)
    return _survey(world, "standard", world.tmp, *flags)


def _known(world, *, emotion=None, gender=None):
    """Makes the counts of a known set small, for no test has all of it."""
    counts = {"gender": gender, "emotion": emotion}
    counts = {task: tuple(values) for task, values in counts.items() if values}
    rows = sum(next(iter(counts.values())))
    for key in (("fairface", "train"), ("rafdb", "train")):
        world.patch.setitem(expected.CLASS_COUNTS, key, {"rows": (rows,), **counts})


def _swapped_genders(world, wrong):
    _known(world, gender=(14, 6))
    names = ("Female", "Male") if wrong else ("Male", "Female")
    rows = []
    for i in range(20):
        write_image(world.tmp / "train" / f"{i}.jpg", i, size=(8, 8))
        rows.append((f"train/{i}.jpg", "20-29", names[i >= 14], "White", "TRUE"))
    write_table(world.tmp / "fairface_label_train.csv", FAIRFACE_HEADER, rows)
    return _survey(world, "fairface", world.tmp)


def _genders_as_numbers(world, wrong):
    given = () if wrong else ("--values=gender:0=male,gender:1=female",)
    return _csv(world, "gender", (0, 1, 1), *given)


def _fer_order(world, wrong):
    """FER's numbers, angry first, in labels that count from surprise."""
    ours = (3, 1, 2, 9, 5, 4, 6)
    _known(world, emotion=ours)
    fer = (5, 2, 1, 3, 4, 0, 6)  # ours -> FER's
    return _standard(world, emotion=[fer[c] if wrong else c for c, n in enumerate(ours) for _ in range(n)])


def _one_based_emotions(world, wrong):
    return _standard(world, emotion=[c + wrong for c in range(7)])


def _one_based_ages(world, wrong):
    return _standard(world, age=[c + wrong for c in range(9)])


def _years_for_classes(world, wrong):
    return _standard(world, age=["3", "34"] if wrong else ["0", "4"])


def _years_in_csv(world, wrong):
    return _csv(world, "age", (3, 34), *(() if wrong else ("--age_values=years",)))


def _classes_for_years(world, wrong):
    ages = np.random.default_rng(0).integers(0, 9, 30).tolist()
    return _standard(world, age=ages, flags=("--age_values=years",) if wrong else ())


def _other_bins(world, wrong):
    return _csv(world, "age", ("20-29", "4-12" if wrong else "3-9"))


def _dates(world, wrong):
    source = make_fairface(world.tmp, train=2, val=1)
    if wrong:
        table = source / "fairface_label_train.csv"
        table.write_text(table.read_text().replace(",3-9,", ",03-Sep,"))
    return _survey(world, "fairface", source)


def _dates_in_csv(world, wrong):
    return _csv(world, "age", ("20-29", "Oct-19" if wrong else "10-19"))


def _foreign_word(world, wrong):
    return _csv(world, "emotion", ("happy", "contempt" if wrong else "anger"))


def _missing_column(world, wrong):
    header = ("file", "sex" if wrong else "gender")
    write_image(world.tmp / "0.jpg", 0)
    write_table(world.tmp / "labels.csv", header, [("0.jpg", "male")])
    return _survey(world, "csv", world.tmp / "labels.csv", "--columns=path=file,gender=gender")


def _semicolons(world, wrong):
    run = _csv(world, "gender", ("male", "female"))
    table = world.tmp / "labels.csv"
    if wrong:
        table.write_text(table.read_text().replace(",", ";"))
    return run


def _utf16(world, wrong):
    """As a spreadsheet writes "Unicode text"; a mere byte order mark does no harm."""
    run = _csv(world, "gender", ("male", "female"))
    table = world.tmp / "labels.csv"
    table.write_text(table.read_text(), encoding="utf-16" if wrong else "utf-8-sig")
    return run


def _wrong_root(world, wrong):
    for i in range(3):
        write_image(world.tmp / "pictures" / f"{i}.jpg", i)
    rows = [(f"{i}.jpg", "male") for i in range(3)]
    write_table(world.tmp / "labels.csv", ("file", "gender"), rows)
    flags = () if wrong else (f"--images={world.tmp}/pictures",)
    return lambda: world.script(
        "prepare_data.py",
        "--dataset=csv",
        f"--source={world.tmp}/labels.csv",
        "--columns=path=file,gender=gender",
        f"--out={world.tmp}/out",
        *flags,
    )


def _no_label(world, wrong):
    _csv(world, "gender", ("unknown", "") if wrong else ("male", ""))
    flags = ("--dataset=csv", f"--source={world.tmp}/labels.csv", f"--out={world.tmp}/out")
    return lambda: world.script("prepare_data.py", *flags, "--columns=path=file,gender=gender")


MISTAKES = (
    Mistake(
        name="Male and female exchanged in a known data set",
        make=_swapped_genders,
        cause=r"gender classes in another order.*expected male 14, female 6.*found male 6",
        fix="correct the labels.*male is female, female is male",
    ),
    Mistake(
        name="Genders as 0 and 1 in one's own table",
        make=_genders_as_numbers,
        cause=r"unknown gender class.*row 2.*found '0'",
        fix="--values=gender:0=CLASS",
    ),
    Mistake(
        name="Emotions numbered in the order of FER2013",
        make=_fer_order,
        cause="emotion classes in another order",
        fix="surprise is angry",
    ),
    Mistake(
        name="Emotions counted from 1, as RAF-DB's lists do",
        make=_one_based_emotions,
        cause="unknown emotion class.*expected 0 to 6, found '7'",
        fix="subtract 1",
    ),
    Mistake(
        name="Age classes counted from 1",
        make=_one_based_ages,
        cause="unknown age class.*expected 0 to 8, found '9'",
        fix="subtract 1",
    ),
    Mistake(
        name="Ages in years where classes are expected",
        make=_years_for_classes,
        cause="unknown age class.*found '34'",
        fix="--age_values=years",
    ),
    Mistake(
        name="Ages in years in one's own table",
        make=_years_in_csv,
        cause="unknown age class.*row 2.*found '3'",
        fix="--age_values=years",
    ),
    Mistake(
        name="Age classes where years are expected",
        make=_classes_for_years,
        cause="look like classes.*found 30 ages of 0 to 8",
        fix="--age_values=class",
    ),
    Mistake(
        name="Age groups of another binning",
        make=_other_bins,
        cause="unknown age class.*found '4-12'",
        fix="4-12 spans 3-9 and 10-19",
    ),
    Mistake(
        name="Ages that a spreadsheet turned into dates",
        make=_dates,
        cause="a spreadsheet turned an age into a date.*row 3",
        fix="original file",
    ),
    Mistake(
        name="The same in one's own table",
        make=_dates_in_csv,
        cause="unknown age class.*found 'Oct-19'",
        fix="spreadsheet.*original file",
    ),
    Mistake(
        name="A class that the task does not have",
        make=_foreign_word,
        cause="unknown emotion class.*row 3.*'contempt'",
        fix="--values=emotion:contempt=",
    ),
    Mistake(
        name="A missing or misnamed column",
        make=_missing_column,
        cause="a column is missing.*found file, sex",
        fix="column 'gender'",
    ),
    Mistake(
        name="Semicolons between the values",
        make=_semicolons,
        cause="separated by semicolons",
        fix="save it with commas",
    ),
    Mistake(
        name="A table that is not UTF-8",
        make=_utf16,
        cause="another encoding.*expected UTF-8",
        fix="iconv -f utf-16 -t utf-8",
    ),
    Mistake(
        name="Paths that start at another folder",
        make=_wrong_root,
        cause=r"no row can be used.*3 of 3 \(0.jpg: no such file",
        fix="--images",
    ),
    Mistake(
        name="No usable label at all", make=_no_label, cause="no row can be used.*no label", fix="label rows"
    ),
)
