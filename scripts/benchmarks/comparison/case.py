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
      side: the module of `benchmarks` that prepares it, such as ours.step.
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
      target: the largest ratio that counts as reached, or with one entry the largest value; None:
        no target.
      measure: "time" of a repetition, in processes that live through the case; "memory", the
        highest resident memory of a fresh process each; "fact", a value that preparing in a fresh
        process reports under the name `fact`.
      repeats: number of repetitions of each entry that are kept.
      warm_ups: number before them that are not.
      fact: the value's name, which ends in its unit: seconds, percent or ratio.
      images: images per repetition, where a rate is of interest.
      least_rate: images per second below which the target is not reached.
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
