"""Numbers in label columns that are on another scale than they are said to be."""

from __future__ import annotations

from collections.abc import Iterable

from softbio_jax.errors import UserError
from softbio_jax.tasks import AGE, TASKS

_ENOUGH = 20  # ages of which none is above 8, before they are taken for classes
_DISTINCT = 5


class Years:
    """Watches ages that are said to be in years for being the numbers of classes."""

    def __init__(self) -> None:
        self._count = 0
        self._seen: set[float] = set()

    def add(self, years: float) -> None:
        self._count += 1
        self._seen.add(years)

    def check(self, *, where: str) -> None:
        """Raises UserError if the ages are the integers 0 to 8 alone, many and various."""
        classes = self._seen <= set(range(AGE.num_classes))
        if classes and self._count >= _ENOUGH and len(self._seen) >= _DISTINCT:
            raise UserError(
                "ages in years that look like classes",
                where=where,
                expected="some age above 8",
                found=f"{self._count:,} ages of 0 to {max(self._seen):g}",
                fix="pass --age_values=class; children's years may be written as classes, "
                "0-2 or 3-9",
            )


def out_of_range(task: str, value: str, column: Iterable[str], *, where: str) -> UserError:
    """Returns the error of a number that is no class, by what the whole column holds.

    Args:
      task: the task.
      value: the number.
      column: all values of its column, missing ones left out.
      where: its file and row.
    """
    classes = TASKS[task].num_classes
    numbers = set(map(_number, column))
    fix = "correct the row"
    if numbers <= set(range(1, classes + 1)):
        fix = f"subtract 1 from the whole column: its classes count from 1 to {classes}"
    elif task == "age":
        fix = "pass --age_values=years if they are years"
    return UserError(
        f"unknown {task} class",
        where=where,
        expected=f"0 to {classes - 1}",
        found=repr(value),
        fix=fix,
    )


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return -1.0
