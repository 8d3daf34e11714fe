"""A train and a test part, by subject, for data sets that come without splits."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Iterable, Iterator, Sequence

from softbio_jax.data.prepare.rows import IDENTITY_COLUMNS, Outcome, Row
from softbio_jax.errors import UserError

PARTS = ("train", "test")


def require_share(share: float, splits: Sequence[str]) -> None:
    """Raises UserError unless a data set of these splits can be divided, and leaves two parts.

    Args:
      share: the fraction of the subjects that are for training.
      splits: those that the source has.
    """
    if not 0 < share < 1:
        fix = "for example --split=0.8"
        raise UserError(
            "not a fraction", where="--split", expected="between 0 and 1", found=f"{share:g}", fix=fix
        )
    if len(splits) > 1:
        found, fix = ", ".join(splits), "omit --split"
        raise UserError("the data have splits of their own", where="--split", found=found, fix=fix)


def subject_of(row: Row) -> str:
    """Returns who or what a row shows that must be on one side of a split: its id where nothing is known."""
    return next((row.columns[name] for name in IDENTITY_COLUMNS if row.columns.get(name)), row.id)


def training_subjects(outcomes: Iterable[Outcome], *, share: float) -> frozenset[str]:
    """Returns the subjects for training: the `share` of all with the smallest SHA-256 of their names.

    Both parts get one; adding rows moves few others.

    Raises:
      UserError: there are no two subjects.
    """
    subjects = {subject_of(row) for row in outcomes if isinstance(row, Row)}
    ranked = sorted(subjects, key=lambda name: hashlib.sha256(name.encode()).digest())
    if len(ranked) < 2:
        what, found = "one subject cannot be divided", f"{len(ranked)} ({', '.join(ranked)})"
        raise UserError(
            what, where="--split", expected="two or more subjects", found=found, fix="omit --split"
        )
    count = math.floor(share * len(ranked) + 0.5)
    return frozenset(ranked[: max(1, min(count, len(ranked) - 1))])


def divide(outcomes: Iterable[Outcome], training: Collection[str], *, part: str) -> Iterator[Outcome]:
    """Yields the rows of one of the `PARTS`; rejected and omitted rows belong to the first."""
    for outcome in outcomes:
        in_first = not isinstance(outcome, Row) or subject_of(outcome) in training
        if in_first == (part == PARTS[0]):
            yield outcome
