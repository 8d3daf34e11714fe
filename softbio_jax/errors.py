"""The one exception a user's mistake raises, always a single line."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake in the user's input, told in one line: what, where, expected, found, fix.

    Args:
      what: what went wrong, in a few words.
      where: the file, row, key or flag concerned.
      expected: what would have been right.
      found: what was there.
      fix: what to do about it.

    >>> print(UserError("unknown class", where="labels.csv row 3", expected="Male or Female",
    ...                 found="'m'", fix="map it with --gender_values"))
    unknown class: labels.csv row 3: expected Male or Female, found 'm'; fix: map it with --gender_values
    """

    def __init__(self, what: str, *, where: str = "", expected: str = "", found: str = "", fix: str = ""):
        comparison = ", ".join(
            part
            for part in (f"expected {expected}" if expected else "", f"found {found}" if found else "")
            if part
        )
        line = ": ".join(part for part in (what, where, comparison) if part)
        super().__init__(" ".join((line + (f"; fix: {fix}" if fix else "")).split()))


def nearest(word: str, known: Iterable[str], *, otherwise: str) -> str:
    """Tells what a mistyped name was most likely meant to be, as a fix.

    Args:
      word: what was written.
      known: the names there are.
      otherwise: the fix where none of them is near.

    >>> nearest("varaint", ["variant", "image_size"], otherwise="correct it")
    "write 'variant'"
    """
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"write {near[0]!r}" if near else otherwise
