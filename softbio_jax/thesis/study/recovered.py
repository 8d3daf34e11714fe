"""How much of what masking loses partial labels recover: a ratio of paired differences."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from softbio_jax.thesis.study.collected import Collected, Estimate, paired

METHODS = {"lp": "LP", "lora": "LoRA"}
RANGES = {"rafdb": "RAF-DB's", "adience": "Adience's"}
HEADER = ("method", "ranges", "metric", "masked", "partial", "full", "full - masked", "recovered, %")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Share:
    """A ratio and its 95 % interval, which is all numbers where its denominator may be zero."""

    value: float
    low: float
    high: float


def share(parts: Sequence[float], wholes: Sequence[float]) -> Share:
    """Returns mean(parts) / mean(wholes) of n pairs, with Fieller's interval.

    It holds every r for which Student's test of mean(parts - r wholes) = 0, with n - 1 degrees of freedom,
    is not significant at 5 %.

    Source: Fieller, Journal of the Royal Statistical Society B 1954.
    """
    from scipy import stats

    a, b = np.asarray(parts, float), np.asarray(wholes, float)
    n, value = len(a), float(a.mean() / b.mean()) if b.mean() else math.nan
    if n < 2:
        return Share(value=value, low=-math.inf, high=math.inf)
    scale = float(stats.t.ppf(0.975, n - 1)) ** 2 / n
    covariance = np.cov(a, b, ddof=1) * scale
    # (mean(a) - r mean(b))^2 <= t^2 s^2(a - r b) / n, as p r^2 - 2 q r + c <= 0.
    p, q, c = (
        b.mean() ** 2 - covariance[1, 1],
        a.mean() * b.mean() - covariance[0, 1],
        a.mean() ** 2 - covariance[0, 0],
    )
    if p <= 0:
        return Share(value=value, low=-math.inf, high=math.inf)
    half = math.sqrt(max(q**2 - p * c, 0.0))
    return Share(value=value, low=float((q - half) / p), high=float((q + half) / p))


def rows(study: Collected) -> list[list[str]]:
    """Returns the rows of the table of masked, partial and full labels, for the cells that are complete."""
    found = []
    for method, name in METHODS.items():
        for ranges, whose in RANGES.items():
            cells = [f"{method}_{ranges}_masked", f"{method}_{ranges}_partial", f"{method}_full"]
            if not study.has(*cells):
                continue
            seeds = sorted(set.intersection(*({run["seed"] for run in study.chosen(cell)} for cell in cells)))
            for metric, read in (("accuracy, %", _accuracy), ("MAE, years", _mae)):
                masked, partial, full = ([read(study, cell, seed) for seed in seeds] for cell in cells)
                gap = paired(full, masked)
                found.append(
                    [
                        *(name, whose, metric),
                        *(f"{np.mean(values):.2f}" for values in (masked, partial, full)),
                        _signed(gap),
                        _shown(share(differences(partial, masked), differences(full, masked))),
                    ]
                )
    return found


def differences(first: Sequence[float], second: Sequence[float]) -> list[float]:
    """Returns first - second, pair by pair."""
    return [a - b for a, b in zip(first, second, strict=True)]


def _run(study: Collected, cell: str, seed: int) -> dict:
    return next(dict(run) for run in study.chosen(cell) if run["seed"] == seed)


def _accuracy(study: Collected, cell: str, seed: int) -> float:
    return 100 * float(_run(study, cell, seed)["averages"]["age"])


def _mae(study: Collected, cell: str, seed: int) -> float:
    sets = _run(study, cell, seed)["datasets"].values()
    return float(np.mean([tasks["age"]["expected_age_mae"] for tasks in sets if "age" in tasks]))


def _signed(estimate: Estimate) -> str:
    half = "" if estimate.n < 2 else f" ± {estimate.half:.2f}"
    text = f"{estimate.mean:+.2f}{half}"
    return f"**{text}**" if estimate.excludes_zero else text


def _shown(found: Share) -> str:
    if math.isinf(found.low):
        return "none: the gap may be zero"
    return f"{100 * found.value:.0f} [{100 * found.low:.0f}, {100 * found.high:.0f}]"
