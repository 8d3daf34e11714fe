"""From repetitions to medians, spreads and ratios."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any


def spread(values: Sequence[float]) -> float:
    """Returns the interquartile range, 0 of fewer than two values."""
    if len(values) < 2:
        return 0.0
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return high - low


def paired_ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Returns the median of the ratios of repetitions that followed each other.

    Load that comes and goes touches both of a pair, so this moves less than the medians do.
    """
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


def compare(samples: Mapping[str, Sequence[float]], target: float | None) -> dict[str, Any]:
    """Compares the first entry with the best, by its median, of the others.

    Args:
      samples: the repetitions of each entry, as many of each, in the order they were taken.
      target: the largest ratio that counts as reached, or None.

    Returns:
      For each entry median, spread and samples; the best opponent's label, the ratio of medians,
      the median of paired ratios, and whether the former is within the target (None without one).
      An entry alone is compared with nothing: its median itself is held against the target.
    """
    medians = {label: statistics.median(values) for label, values in samples.items()}
    entries = {
        label: {"median": medians[label], "spread": spread(values), "samples": list(values)}
        for label, values in samples.items()
    }
    ours, *others = samples
    found: dict[str, Any] = {"entries": entries, "target": target}
    figure = medians[ours]
    if others:
        best = min(others, key=lambda label: medians[label])
        figure = medians[ours] / medians[best]
        found |= {
            "best": best,
            "ratio": figure,
            "paired_ratio": paired_ratio(samples[ours], samples[best]),
        }
    return found | {"reached": None if target is None else figure <= target}
