"""From the words in data sets to the labels of `softbio_jax.tasks`."""

import bisect
import math
import re
from collections.abc import Mapping
from typing import NamedTuple

from softbio_jax.errors import UserError
from softbio_jax.tasks import AGE, AGE_SPANS, EMOTION, GENDER, MISSING, TASKS

_AGE_STARTS = tuple(first for first, _ in AGE_SPANS[1:])  # of each age class but the youngest

OLDEST = 120  # years; a larger number is no age

NO_LABEL = ("", "-1", "-100", "nan", "none", "null", "na", "n/a", "<na>", "unknown")  # in lower case

AGE_WORDS = {name: label for label, name in enumerate(AGE.classes)} | {"more than 70": 8}
GENDER_WORDS = {"male": 0, "m": 0, "man": 0, "female": 1, "f": 1, "woman": 1}
_EMOTIONS = (
    "surprise surprised",
    "fear fearful afraid scared",
    "disgust disgusted",
    "happy happiness happily joy",
    "sad sadness",
    "angry anger",
    "neutral neutrality",
)
EMOTION_WORDS = {word: label for label, words in enumerate(_EMOTIONS) for word in words.split()}
# task -> {lower-case word: label}. A task without an entry has the names of its classes as words; a
# module that registers a task may add its synonyms.
WORDS = {AGE.name: AGE_WORDS, GENDER.name: GENDER_WORDS, EMOTION.name: EMOTION_WORDS}

# Spreadsheets read 3-9 and 10-19 as dates: the third of September, or March the ninth.
_DATE_LIKE = re.compile(r"\d{1,4}-[A-Za-z]{3}|[A-Za-z]{3}-\d{1,4}")
# A minus sign, a dash and a hyphen that does not break are what word processors make of a hyphen.
_RANGE = re.compile(
    r"([(\[]?)\s*(-?\d{1,4}(?:\.\d+)?)\s*(?:-|–|—|−|‑|,|_|to)\s*(-?\d{1,4}(?:\.\d+)?)\s*([)\]]?)"
)
_OPEN = re.compile(r"(over |above |more than |>=? ?)?(\d{1,3}) ?(\+|and over|and above|or over|or older)?")
_UNIT = re.compile(r"(?<=[0-9+)\]]) ?(?:years?|yrs?|y\.?o\.?|y/o)(?: old)?$")


class AgeRange(NamedTuple):
    """A range of ages: its ends as they are written, and the completed years [first, end)."""

    low: int
    high: int
    first: int
    end: int


def date_like(word: str) -> bool:
    """Returns whether a word may be an age class such as 3-9 that a spreadsheet turned into a date."""
    return _DATE_LIKE.fullmatch(word) is not None


def without_unit(word: str) -> str:
    """Returns an age in lower case without spaces around it and a unit: "25" for "25 Years"."""
    return _UNIT.sub("", word.strip().lower())


def age_range(word: str) -> AgeRange | None:
    """Returns the range that a word such as 25-29, (4, 6) or [20, 30) writes, None for other words.

    Both ends are in it, unless it is half-open: "[20, 30)" ends before 30 and "(19, 29]" begins after 19,
    which is how pandas.cut writes its bins. A reversed range ends before it begins.
    """
    match = _RANGE.fullmatch(without_unit(word))
    if match is None:
        return None
    low, high, ends = float(match[2]), float(match[3]), match[1] + match[4]
    if high % 1 or (low % 1 and ends != "(]"):  # pandas.cut begins its first bin at -0.001
        return None
    first, end = math.floor(low) + (ends == "(]"), int(high) + (ends != "[)")
    return AgeRange(int(low), int(high), first, end)


def open_age(word: str) -> int | None:
    """Returns the 70 of an age without an upper end, such as 70+ or "over 70", None for other words."""
    match = _OPEN.fullmatch(without_unit(word))
    return int(match[2]) if match is not None and (match[1] or match[3]) else None


def spanned(word: str) -> list[str]:
    """Returns the age classes that a range such as 4-12 or 60+ covers; none for other words."""
    years = _possible_years(word)
    if years is None:
        return []
    first, last = (age_class(year) for year in years)
    return list(AGE.classes[first : last + 1])


def age_range_class(word: str) -> int | None:
    """Returns the age class that a range such as 25-29, (4, 6) or 75+ lies in, None for other words."""
    classes = spanned(word)
    return AGE.classes.index(classes[0]) if len(classes) == 1 else None


def _possible_years(word: str) -> tuple[int, int] | None:
    """Returns the first and the last year of a range or an open age, None for other words."""
    found, oldest = age_range(word), open_age(word)
    first, end = (oldest or 0, OLDEST + 1) if found is None else (found.first, found.end)
    if (found is None and oldest is None) or not 0 <= first < end <= OLDEST + 1:
        return None
    return first, end - 1


def class_of(task: str, word: str) -> int | None:
    """Returns the label of a class name or synonym ("anger" for "angry"), None for an unknown word.

    Case and surrounding spaces are ignored.
    """
    return _words(task).get(word.strip().lower())


def require_class(task: str, word: str, *, where: str, fix: str = "correct the row") -> int:
    """Returns the label as `class_of` does; raises UserError for an unknown word in the row `where`."""
    label = class_of(task, word)
    if label is None:
        what, expected = f"unknown {task} class", known_words(task)
        raise UserError(what, where=where, expected=expected, found=repr(word), fix=fix)
    return label


def known_words(task: str) -> str:
    """Returns every accepted word of a task, for an error message."""
    by_label: dict[int, list[str]] = {}
    for word, label in _words(task).items():
        by_label.setdefault(label, []).append(word)
    return ", ".join("/".join(by_label[label]) for label in sorted(by_label))


def _words(task: str) -> Mapping[str, int]:
    classes = {word.lower(): label for label, word in enumerate(TASKS[task].classes)}
    return WORDS.get(task, classes)


def age_class(years: float) -> int:
    """Returns the class 0..8 of an age in years, rounded half up; MISSING if negative or not finite."""
    if not math.isfinite(years) or years < 0:
        return MISSING
    return bisect.bisect_right(_AGE_STARTS, math.floor(years + 0.5))
