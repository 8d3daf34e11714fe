"""A train and a test part, by subject, for data sets that come without splits."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

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


def divide(outcomes: Iterator[Outcome], *, share: float, part: str) -> Iterator[Outcome]:
    """Yields the rows of one of the `PARTS`; rejected and omitted rows belong to the first.

    The SHA-256 of a row's subject, or of its id where the subject is unknown, decides: a subject is
    never in both, and adding rows moves no other row.
    """
    for outcome in outcomes:
        if part == (PARTS[0] if not isinstance(outcome, Row) or _in_first(outcome, share) else PARTS[1]):
            yield outcome


def _in_first(row: Row, share: float) -> bool:
    subject = next((row.columns[name] for name in IDENTITY_COLUMNS if row.columns.get(name)), row.id)
    return int.from_bytes(hashlib.sha256(subject.encode()).digest()[:8]) < share * 2**64
