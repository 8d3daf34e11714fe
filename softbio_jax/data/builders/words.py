"""The labels that words and numbers stand for: the vocabulary, `--values`, and ages in years."""

from __future__ import annotations

import collections
import dataclasses
import re
import shlex
from collections.abc import Mapping, Sequence

from softbio_jax.data.labels import (
    NO_LABEL,
    age_class,
    age_range_class,
    class_of,
    date_like,
    known_words,
    spanned,
    without_unit,
)
from softbio_jax.data.partial.years import interval
from softbio_jax.data.prepare import tables
from softbio_jax.data.prepare.rows import Rejection, Skip, impossible_age
from softbio_jax.errors import UserError
from softbio_jax.tasks import AGE, MISSING

AGE_VALUES = ("class", "years")
RANGES = "range"  # a third kind, of tables: ranges, which are labels by data.labels.partial
YEARS = "years"  # the audit column of ages in years, which the metrics read
AGE_RANGE = "age_range"  # that of ranges
_DATE = re.compile(r"\d{4}[-/.]\d{1,2}[-/.]\d{1,2}.*|\d{1,2}[-/.]\d{1,2}[-/.]\d{4}")
SEVERAL = "an age range over several classes"
VOTES = "votes without a label"
_MANY = 20  # ages of which none is above 8, before they are taken for classes
_DISTINCT = 5


class Years:
    """Checks that ages given in years are not the numbers of classes."""

    def __init__(self) -> None:
        self._count: collections.Counter[float] = collections.Counter()

    def add(self, years: float) -> None:
        self._count[years] += 1

    def check(self, *, where: str) -> None:
        """Raises UserError if there are many ages and all of them are integers from 0 to 8."""
        total, classes = self._count.total(), self._count.keys() <= set(range(AGE.num_classes))
        if total >= _MANY and len(self._count) > 1 and (max(self._count) <= 1 or set(self._count) == {1, 2}):
            raise UserError(
                "ages in years that look like classes of two, or fractions",
                where=where,
                expected="some age above 2",
                found=f"{total:,} ages of {min(self._count):g} to {max(self._count):g}",
                fix="check --columns; babies' ages may be written as the class 0-2, for --age_values=class",
            )
        if classes and total >= _MANY and len(self._count) >= _DISTINCT:
            raise UserError(
                "ages in years that look like classes",
                where=where,
                expected="some age above 8",
                found=f"{total:,} ages of 0 to {max(self._count):g}",
                fix="pass --age_values=class; children's years may be written as classes, 0-2 or 3-9",
            )


@dataclasses.dataclass(frozen=True)
class Read:
    """The labels of one row; `years` and `age_range` are its age, as audit columns hold it."""

    labels: dict[str, int]
    masked: dict[str, str]
    years: str = ""
    age_range: str = ""


class LabelReader:
    """Reads the labels of rows or of class folders.

    Args:
      tasks: the tasks that are read.
      values: "{task}:{word of the source}" -> class, for words that the vocabulary lacks; an empty
        class leaves the word out.
      age_values: whether a number for age is in "years", or an age a "range" such as 4-19; otherwise only
        a "class" such as 20-29 is.

    Raises:
      UserError: a value that is no class.
    """

    def __init__(self, tasks: Sequence[str], *, values: Mapping[str, str] | None, age_values: str):
        kinds = (*AGE_VALUES, RANGES)
        tables.require_choice(age_values, kinds, what="unknown kind of ages", where="--age_values")
        self.tasks, self.age_values = tuple(tasks), age_values
        self.words = {task: dict[str, int | None]() for task in tasks}
        for key, word in (values or {}).items():
            self._add(key, word)

    def add_words(self, task: str, words: Mapping[str, str]) -> None:
        """Adds word -> class where `values` has no word of the task."""
        if not self.words[task]:
            for word, name in words.items():
                self._add(f"{task}:{word}", name)

    def read(
        self, texts: Mapping[str, str], *, row_id: str, where: str, voted: Sequence[str] = ()
    ) -> Read | Rejection | Skip:
        """Returns the labels of a row's texts by task, or why the row is no example.

        Args:
          texts: task -> the row's text.
          row_id: the id of its image.
          where: the table and the row.
          voted: the tasks of which it has votes.

        Raises:
          UserError: a word without a class, in the row `where`.
        """
        labels: dict[str, int] = {}
        masked: dict[str, str] = {}
        years = age_range = ""
        for task in self.tasks:
            text = texts[task]
            if task == AGE.name and self.age_values == RANGES and _plain(text) not in self.words[task]:
                labels[task] = class_of_range(text, where=where)
                age_range = "" if _plain(text) in NO_LABEL else text
                masked |= {task: SEVERAL} if age_range and labels[task] == MISSING else {}
                continue
            known = self.label(task, text)
            if known is not None:
                labels[task] = known
            elif self.left_out(task, text):
                masked[task] = f"{task} {text!r} is left out"
            elif task == AGE.name and self.age_values == "years":
                number = _number(text, where=where, texts=texts)
                if rejection := impossible_age(row_id, number, where=where):
                    return rejection
                labels[task], years = age_class(number), f"{number:g}"
            else:
                raise self.unknown(task, text, where=where, texts=texts)
        masked |= {task: VOTES for task in voted if labels.get(task) == MISSING and task not in masked}
        if set(labels.values()) <= {MISSING} and not age_range and not voted:
            return Skip(next(iter(masked.values()), "no label"))
        return Read(labels, masked, years, age_range)

    def label(self, task: str, text: str) -> int | None:
        """Returns the class of a word, MISSING if it says so, None for numbers of years and other words."""
        word = _plain(text)
        if word in self.words[task]:
            return self.words[task][word]
        if word in NO_LABEL:
            return MISSING
        label = class_of(task, word)
        if label is None and task == AGE.name:
            label = age_range_class(word)
        return label

    def knows(self, task: str, text: str) -> bool:
        """Returns whether a word has a class, is left out or means none, or is an age in years."""
        years = task == AGE.name and self.age_values == "years" and _plain(text).isdecimal()
        return years or self.label(task, text) is not None or self.left_out(task, text)

    def left_out(self, task: str, text: str) -> bool:
        """Returns whether `values` leaves a word out."""
        return self.words[task].get(_plain(text), MISSING) is None

    def unknown(self, task: str, text: str, *, where: str, texts: Mapping[str, str] = {}) -> UserError:
        """Returns the error of a word without a class, with the likely cause from the row's other words."""
        fix = _fix(task, text, texts, age_values=self.age_values)
        what, expected = f"unknown {task} class", known_words(task)
        return UserError(what, where=where, expected=expected, found=repr(text), fix=fix)

    def protocol(self) -> dict[str, str]:
        """Returns the choices, for the report."""
        return {"age_values": self.age_values} if AGE.name in self.tasks else {}

    def _add(self, key: str, word: str) -> None:
        task, _, value = key.partition(":")
        label = class_of(task, word) if task in self.words else None
        if label is None and (word or task not in self.words):
            expected = known_words(task) if task in self.words else "TASK:WORD=CLASS"
            where, fix = f"--values={key}={word}", "for example --values=gender:0=male,gender:1=female"
            raise UserError("not a class to map to", where=where, expected=expected, fix=fix)
        self.words[task][_plain(value)] = label


def _fix(task: str, value: str, texts: Mapping[str, str], *, age_values: str) -> str:
    for other, text in texts.items():
        if other != task and (_belongs(text, task, not_to=other) or _belongs(value, other, not_to=task)):
            return f"the columns of {task} and {other} look exchanged: check --columns, or correct the row"
    if task == AGE.name and _DATE.fullmatch(value):
        return "write the age at the time of the image, not a date"
    if task == AGE.name and date_like(value):
        return "undo what a spreadsheet made of an age such as 3-9: use the original file"
    flag = value_flag(task, value)
    if task == AGE.name and len(classes := spanned(value)) > 1:
        spans = f"{value} spans {' and '.join(classes)}: leave such cells empty, which masks them"
        return f"{spans}, keep them as ranges with --age_values=range, or choose one with {flag}"
    fix = f"correct the row or pass {flag}"
    if value.isdecimal() and task != AGE.name:
        fix += ", for every number: data sets count classes in different orders"
    years = task == AGE.name and age_values == "class" and _is_number(without_unit(value))
    return fix + (", or --age_values=years" if years else "")


def class_of_range(text: str, *, where: str) -> int:
    """Returns the age class that a range lies in, MISSING where it lies in several.

    Raises:
      UserError: no age or range, in the row `where`; see `partial.years.interval`.
    """
    first, end = interval("" if _plain(text) in NO_LABEL else text, where=where)
    classes = {age_class(first), age_class(end - 1)}
    return classes.pop() if len(classes) == 1 else MISSING


def value_flag(*words: str, name: str = "CLASS") -> str:
    """Returns the flag, as a shell takes it, that maps words of a task, which comes first, to a class."""
    task, *values = words
    pairs = (f"{task}:{value}={name}" for value in values)
    return shlex.quote("--values=" + ",".join(f'"{pair}"' if "," in pair else pair for pair in pairs))


def _belongs(word: str, task: str, *, not_to: str) -> bool:
    return class_of(task, word) is not None and class_of(not_to, word) is None


def _is_number(word: str) -> bool:
    return re.fullmatch(r"\d+(\.\d+)?", word) is not None


def _number(text: str, *, where: str, texts: Mapping[str, str]) -> float:
    try:
        return tables.parse_number(without_unit(text), where=where, column=AGE.name)
    except UserError:
        if re.fullmatch(r"-?\d+,\d+", text):
            raise  # a decimal comma
        fix = _fix(AGE.name, text, texts, age_values="years")
        raise tables.bad_value(
            "not an age in years", text, where=where, expected="a number", fix=fix
        ) from None


def _plain(text: str) -> str:
    """Returns a word as it is compared; 3.0 as 3, which is how a table with gaps holds integers."""
    word = text.strip().lower()
    return word.partition(".")[0] if re.fullmatch(r"-?\d+\.0+", word) else word
