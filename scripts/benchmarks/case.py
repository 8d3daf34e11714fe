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
      target: the largest ratio that counts as reached; None: only reported.
      measure: "time" of a repetition, in processes that live through the case; "memory", the
        highest resident memory of a fresh process each; "start", the seconds that preparing takes
        in a fresh process, `fact` being the name of the figure.
      repeats: how many repetitions of each entry are kept.
      fact: for "start", the figure; its target is in seconds, not a ratio.
      images: images a repetition, where a rate is of interest.
    """

    name: str
    title: str
    entries: tuple[Entry, ...]
    target: float | None
    measure: Literal["time", "memory", "start"] = "time"
    repeats: int = 7
    fact: str = ""
    images: int = 0
