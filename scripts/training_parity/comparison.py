"""A case on both sides to its last step: within a bound, or against PyTorch's own rounding."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from training_parity.batches import Batch
from training_parity.case import Case, Start
from training_parity.ladder import Ladder, Rung, first_beyond, root_mean_square
from training_parity.ours import Ours
from training_parity.record import KINDS
from training_parity.switches import OURS, Switches
from training_parity.twin.training import Twin

BOUND = 1e-10  # of every leaf in float64
TIMES = 4.0  # of the largest distance of float32 from float64, this package's to PyTorch's
_ROUNDING = 1e-6  # what float32 may differ by whatever PyTorch's does, relative
# Single numbers that follow from the others; one side's distance of these may be small by chance.
_DERIVED = ("total", "norm", "rate")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wide:
    """What float64 showed: the worst of each kind, leaves without a gradient, the first place of parting."""

    worst: dict[str, Rung]
    zero: list[str]
    first: Rung | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Narrow:
    """What float32 showed: the largest distance from PyTorch's float64, by kind, of both sides."""

    ours: dict[str, Rung]
    torch: dict[str, Rung]
    zero: list[str]

    def times(self, kind: str) -> float:
        """Returns the distance of this package over PyTorch's."""
        own, other = self.ours[kind].difference, self.torch[kind].difference
        return own / other if other else (0.0 if own == 0 else float("inf"))

    def holds(self) -> bool:
        """Returns whether no kind is more than `TIMES` as far as PyTorch."""
        return not self.beyond()

    def beyond(self) -> list[str]:
        """Returns the kinds that are more than `TIMES` as far as PyTorch."""
        return [
            kind
            for kind, rung in self.ours.items()
            if kind not in _DERIVED and not (self.times(kind) <= TIMES or rung.difference <= _ROUNDING)
        ]


Progress = Callable[[int, Any], None]


def _quiet(step: int, rung: Any) -> None:
    del step, rung


def in_float64(
    case: Case,
    start: Start,
    batches: Sequence[Batch],
    *,
    switches: Switches = OURS,
    bound: float = BOUND,
    progress: Progress = _quiet,
    stop: bool = False,
) -> Wide:
    """Trains both sides in float64 and compares them after every step.

    Args:
      case: what is trained.
      start: the state before the first step.
      batches: one per step.
      switches: of the twin.
      bound: of every difference.
      progress: called with every step and its worst rung.
      stop: whether to end at the first difference beyond the bound.
    """
    ours = Ours(case, start, dtype="float64")
    twin = Twin(case, start, dtype="float64", switches=switches)
    ladder, first = Ladder(), None
    for step, batch in enumerate(batches):
        masks = ours.masks(batch)
        rungs = ladder.compare(ours.step(batch), twin.step(batch, masks))
        first = first or first_beyond(rungs, bound)
        progress(step, max(rungs, key=lambda rung: rung.difference))
        if first and stop:
            break
    return Wide(worst=_by_kind(ladder), zero=sorted(ladder.zero), first=first)


def in_float32(
    case: Case,
    start: Start,
    batches: Sequence[Batch],
    *,
    switches: Switches = OURS,
    progress: Progress = _quiet,
) -> Narrow:
    """Trains this package in float32, and PyTorch in float32 and float64, and compares both with the last."""
    ours = Ours(case, start)
    exact, rounded = (Twin(case, start, dtype=d, switches=switches) for d in ("float64", "float32"))
    own, other = (Ladder(root_mean_square, lasting=True) for _ in range(2))
    for step, batch in enumerate(batches):
        masks = ours.masks(batch)
        reference = exact.step(batch, masks)
        rungs = own.compare(ours.step(batch), reference)
        other.compare(rounded.step(batch, masks), reference)
        progress(step, max(rungs, key=lambda rung: rung.difference))
    return Narrow(ours=_by_kind(own), torch=_by_kind(other), zero=sorted(own.zero))


def _by_kind(ladder: Ladder) -> dict[str, Rung]:
    return {kind: rung for kind in KINDS if (rung := ladder.worst_of(kind)) is not None}
