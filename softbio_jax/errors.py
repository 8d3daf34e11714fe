"""The exception that a user's mistake raises, always a single line."""

import difflib
from collections.abc import Iterable

_LONGEST, _SHOWN = 500, 60  # characters of a word


class UserError(ValueError):
    """A mistake in the user's input, reported in one line: what, where, expected, found, fix.

    Args:
      what: the mistake, in a few words.
      where: the file, row, key or flag.
      expected: what it should contain.
      found: what it contains.
      fix: the correction.

    >>> print(UserError("unknown class", where="labels.csv row 3", expected="Male or Female",
    ...                 found="'m'", fix="map it with --gender_values"))
    unknown class: labels.csv row 3: expected Male or Female, found 'm'; fix: map it with --gender_values
    """

    def __init__(self, what: str, *, where: str = "", expected: str = "", found: str = "", fix: str = ""):
        compared = {"expected": expected, "found": " ".join(map(_shortened, found.split()))}
        comparison = ", ".join(f"{name} {value}" for name, value in compared.items() if value)
        line = ": ".join(part for part in (what, where, comparison) if part)
        super().__init__(" ".join((line + (f"; fix: {fix}" if fix else "")).split()))


def _shortened(word: str) -> str:
    """Returns a word that fits in a line: no path is as long, but contents where a path should be are."""
    return word if len(word) <= _LONGEST else f"{word[:_SHOWN]}... ({len(word):,} characters)"


def nearest(word: str, known: Iterable[str], *, otherwise: str) -> str:
    """Returns the fix for a mistyped name: the nearest known one, or `otherwise` if none is near.

    >>> nearest("varaint", ["variant", "image_size"], otherwise="correct it")
    "write 'variant'"
    """
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"write {near[0]!r}" if near else otherwise
