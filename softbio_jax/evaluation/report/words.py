"""How figures are written in tables."""

from collections.abc import Mapping, Sequence
from typing import Any

from softbio_jax.evaluation.report.document import NOTHING


def percent(value: float | None, *, digits: int = 2) -> str:
    """Returns a share as per cent, or a dash for None."""
    return NOTHING if value is None else f"{100 * value:.{digits}f}"


def with_bounds(value: float | None, bounds: Sequence[float] | None, *, digits: int = 1) -> str:
    """Returns "81.25 [80.1, 82.3]" for a share and its interval, or a dash for None."""
    if value is None or bounds is None:
        return NOTHING
    low, high = (percent(bound, digits=digits) for bound in bounds)
    return f"{percent(value)} [{low}, {high}]"


def percent_interval(figures: Mapping[str, Any], name: str) -> str:
    """Returns a figure in per cent with its interval."""
    return with_bounds(figures[name], figures["intervals"][name])


def plain_interval(figures: Mapping[str, Any], name: str) -> str:
    """Returns "1.23 [1.20, 1.27]" for a figure in its own unit."""
    low, high = figures["intervals"][name]
    return f"{figures[name]:.2f} [{low:.2f}, {high:.2f}]"


def points(value: float, interval: Sequence[float]) -> str:
    """Returns "+1.25 [-0.1, +2.6]" for a difference in percentage points."""
    low, high = (f"{100 * bound:+.1f}" for bound in interval)
    return f"{100 * value:+.2f} [{low}, {high}]"


def p_value(value: float) -> str:
    """Returns a p-value with as many digits as it deserves."""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def count(value: float | None) -> str:
    """Returns an integer with thousands separated, or a dash for None."""
    return NOTHING if value is None else f"{int(value):,}"


def number(value: float | None, *, digits: int = 2) -> str:
    """Returns a figure, or a dash for None."""
    return NOTHING if value is None else f"{value:,.{digits}f}"


def listed(names: Sequence[str]) -> str:
    """Returns "age, gender and emotion"."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def duration(seconds: float | None) -> str:
    """Returns "1 h 02 min", "3 min 05 s" or "12 s"."""
    if seconds is None:
        return NOTHING
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
