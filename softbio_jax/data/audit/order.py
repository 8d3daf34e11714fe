"""Classes in another order, told by the counts that a complete copy of a data set is known for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from softbio_jax.data.audit import expected
from softbio_jax.errors import UserError
from softbio_jax.tasks import TASKS

_FITS = 0.01  # of the rows may differ where the counts fit in another order ...
_DIFFERS = 0.02  # ... and as many must differ in the order given


def exchanged(
    copy_of: str, split: str, *, rows: int, counts: Mapping[str, Sequence[int]]
) -> dict[str, str]:
    """Finds tasks whose counts are the published ones with the classes in another order.

    Classes of equal counts cannot be told apart, nor can a part of a data set.

    Args:
      copy_of: the set, as `expected.set_of` names it; asked only where no known set has as many
        rows.
      split: its split.
      rows: how many rows it has.
      counts: task -> (C,) rows of each class.

    Returns:
      task -> "male is female, female is male": what each class' rows really are.
    """
    known = _published(copy_of, split, rows)
    found = {}
    for task in known.keys() & counts.keys():
        here, there = np.array(counts[task]), np.array(known[task])
        # The assignment of least sum |here - there| is that of the ranks.
        really = np.empty(len(here), np.int64)
        really[np.argsort(here)] = np.argsort(there)
        best, given = np.abs(here - there[really]).sum(), np.abs(here - there).sum()
        if best <= _FITS * here.sum() and given > max(5 * best, _DIFFERS * here.sum()):
            names = TASKS[task].classes
            found[task] = ", ".join(
                f"{names[a]} is {names[b]}" for a, b in enumerate(really) if a != b
            )
    return found


def check(copy_of: str, split: str, *, rows: int, counts: Mapping[str, Sequence[int]]) -> None:
    """Checks the order of a split's classes; arguments as of `exchanged`.

    Raises:
      UserError: they are in another order than in every complete copy.
    """
    for task, really in exchanged(copy_of, split, rows=rows, counts=counts).items():
        told = _published(copy_of, split, rows)[task]
        raise UserError(
            f"{task} classes in another order",
            where=f"split {split!r}",
            expected=f"{_listed(task, told)} as in every complete copy",
            found=_listed(task, counts[task]),
            fix=f"correct the labels of the source: {really}",
        )


def _published(copy_of: str, split: str, rows: int) -> dict[str, tuple[int, ...]]:
    alike = [counts for counts in expected.CLASS_COUNTS.values() if counts["rows"] == (rows,)]
    known = alike[0] if alike else expected.CLASS_COUNTS.get((copy_of, split), {})
    return {task: counts for task, counts in known.items() if task in TASKS}


def _listed(task: str, counts: Sequence[int]) -> str:
    pairs = zip(TASKS[task].classes, counts, strict=True)
    return ", ".join(f"{name} {count:,}" for name, count in pairs)
