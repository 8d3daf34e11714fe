"""One row of the table: what is measured on which sides, and the target."""

import dataclasses
from typing import Any, Literal, Protocol


class Work(Protocol):
    """What a side is asked to do."""

    def to_json(self) -> dict[str, Any]: ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
    """One contender.

    Args:
      label: its name in the table, unique in the case.
      side: the module of this package that prepares it.
      work: what it is asked to do.
      form: which of the side's ways to run it.
      units: times and memory are divided by it (a batch, a number of blocks).
    """

    label: str
    side: str
    work: Work
    form: str = "jit"
    units: float = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """Entries measured in turn; the first against the best of the others.

    Args:
      name: what --only takes.
      title: the work, in the table's first column.
      entries: the first is this package's.
      target: the largest ratio that counts as reached, or with one entry the largest figure; None:
        only reported.
      measure: "time" of a repetition, in processes that live through the case; "memory", the
        highest resident memory of a fresh process each; "fact", a figure that preparing in a fresh
        process tells, by the name `fact`.
      repeats: how many repetitions of each entry are kept.
      warm_ups: how many before them are not.
      fact: the figure's name, which ends in its unit: seconds, percent or ratio.
      images: images a repetition, where a rate is of interest.
      least_rate: images a second below which the target is not reached.
    """

    name: str
    title: str
    entries: tuple[Entry, ...]
    target: float | None
    measure: Literal["time", "memory", "fact"] = "time"
    repeats: int = 7
    warm_ups: int = 1
    fact: str = ""
    images: int = 0
    least_rate: float = 0.0
