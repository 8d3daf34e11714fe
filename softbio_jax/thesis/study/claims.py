"""The thesis' claims on its methods, tested on a study's differences between seeds."""

import dataclasses
import math

from softbio_jax.evaluation.metrics.multiplicity import holm
from softbio_jax.thesis.study.collected import TASKS, Collected, over_seeds

HEADER = ("claim", "difference", "task", "seeds", "points", "p", "p adjusted", "here")
LEVEL = 0.05


@dataclasses.dataclass(frozen=True, kw_only=True)
class Claim:
    """A sentence of the thesis, and the two cells whose difference tests it; {task} is a task's name."""

    text: str
    name: str
    first: str
    second: str


CLAIMS = (
    Claim(text="LoRA beats probing", name="LoRA - LP", first="lora", second="lp"),
    Claim(text="fine-tuning beats probing", name="FT_4 - LP", first="ft", second="lp"),
    Claim(text="LoRA beats fine-tuning", name="LoRA - FT_4", first="lora", second="ft"),
    Claim(text="all tasks at once cost little", name="LoRA, all - one", first="lora", second="lora_{task}"),
    Claim(text="MTLoRA equals LoRA", name="MTLoRA - LoRA", first="mtlora", second="lora"),
)


def rows(study: Collected) -> list[list[str]]:
    """Returns a row per claim and task: the paired difference, Student's p-value and Holm's, a verdict.

    Holm's family is every claim on every task, whether its runs are complete or not: those without a
    p-value count as 1. A difference that is not significant does not show that two methods are equal; its
    interval says how much they may differ by.
    """
    pairs = [(claim, task) for claim in CLAIMS for task in TASKS]
    found = [_differences(study, claim, task) for claim, task in pairs]
    p_values = [_p_value(values) for values in found]
    adjusted = holm([1.0 if math.isnan(p) else p for p in p_values])
    result = []
    for (claim, task), values, p, corrected in zip(pairs, found, p_values, adjusted, strict=True):
        if not values:
            continue
        estimate = over_seeds(values)
        row = [claim.text, claim.name, task, str(estimate.n)]
        if math.isnan(p):
            result.append([*row, f"{estimate.mean:+.1f}", "-", "-", "one seed"])
            continue
        verdict = ("higher" if estimate.mean > 0 else "lower") if corrected < LEVEL else "not decided"
        points = f"{estimate.mean:+.1f} ± {estimate.half:.1f}"
        result.append([*row, points, _shown(p), _shown(corrected), verdict])
    return result


def _differences(study: Collected, claim: Claim, task: str) -> list[float]:
    second = claim.second.format(task=task)
    return study.differences(claim.first, second, task) if study.has(claim.first, second) else []


def _p_value(values: list[float]) -> float:
    """Returns that of Student's test of a mean of 0, two-sided, NaN for fewer than two values."""
    from scipy import stats

    if len(values) < 2:
        return math.nan
    if len(set(values)) == 1:
        return 0.0 if values[0] else 1.0
    return float(stats.ttest_1samp(values, 0.0).pvalue)


def _shown(p: float) -> str:
    return f"{p:.3f}" if p >= 0.001 else "< 0.001"
