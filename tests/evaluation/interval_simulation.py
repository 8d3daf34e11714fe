"""How often the 95 % intervals hold the true value, over models and test sets that are drawn.

python -m tests.evaluation.interval_simulation

prints the table of docs/evaluation.md. For every test set a model is drawn (its recall of each class
from the given distribution, its misses spread over the other classes), then its confusion counts at the
given class sizes; the true value is the metric of the model's probabilities at these sizes.
"""

import dataclasses

import numpy as np

from softbio_jax.evaluation.metrics import classification, comparison, intervals

SIZES = {
    "seven classes of 200": (200,) * 7,
    "one class of 20": (20, *[500] * 6),
    "one class of 5": (5, *[200] * 6),
    "classes of 3 and 8": (3, 8, *[300] * 5),
    "nine age groups, 2 to 200": (2, 15, 40, 100, 200, 150, 80, 20, 6),
    "seven classes of 10": (10,) * 7,
    "two classes, 5 and 500": (5, 500),
    "one class of 1": (1, *[150] * 6),
}
SKILLS = {"recall 0.3 to 1": (0.3, 1.0), "recall 0.8 to 1": (0.8, 1.0)}
COLUMNS = ("balanced_accuracy", "macro_f1", "f1", "difference")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """Class sizes and the range from which each class' recall is drawn uniformly."""

    sizes: tuple[int, ...]
    recall: tuple[float, float]


def shares(case: Case, replicates: int, rng: np.random.Generator) -> np.ndarray:
    """Draws models: row probabilities (R, C, C)."""
    size = len(case.sizes)
    recall = rng.uniform(*case.recall, (replicates, size))
    misses = rng.dirichlet(np.ones(size), (replicates, size))
    own = np.eye(size, dtype=bool)
    misses = np.where(own, 0, misses)
    misses /= misses.sum(-1, keepdims=True)
    return np.where(own, recall[..., None], (1 - recall)[..., None] * misses)


def drawn(case: Case, models: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draws one table of counts (R, C, C) from each model."""
    rows = [rng.multinomial(n, models[:, k]) for k, n in enumerate(case.sizes)]
    return np.stack(rows, axis=1)


def coverage(case: Case, *, replicates: int, seed: int = 0) -> dict[str, float]:
    """Returns how often the intervals of balanced accuracy, macro-F1 and the first class' F1 are right."""
    rng = np.random.default_rng(seed)
    models = shares(case, replicates, rng)
    counts = drawn(case, models, rng)
    n = np.array(case.sizes)
    f1 = 2 * n * np.diagonal(models, axis1=1, axis2=2) / (n + (n[:, None] * models).sum(1))
    even = np.full((replicates, len(n)), 1 / len(n))
    first = np.eye(len(n))[[0] * replicates]
    found = {
        "balanced_accuracy": (np.diagonal(models, axis1=1, axis2=2).mean(1), intervals.mean_recall, even),
        "macro_f1": (f1.mean(1), intervals.mean_f1, even),
        "f1": (f1[:, 0], intervals.mean_f1, first),
    }
    return {
        name: share_inside(true, intervals.score(counts, metric, weights))
        for name, (true, metric, weights) in found.items()
    }


def paired_coverage(case: Case, *, replicates: int, seed: int = 0) -> float:
    """Returns how often the interval of a difference of balanced accuracies is right.

    The second model answers as the first with probability 0.6, and otherwise by itself.
    """
    rng = np.random.default_rng(seed)
    one, two = shares(case, replicates, rng), shares(case, replicates, rng)
    size, true, found = len(case.sizes), [], []
    places = np.indices((size,) * 3).reshape(3, -1)  # (true, first, second)
    for first, second in zip(one, two, strict=True):
        joint = 0.6 * first[:, :, None] * np.eye(size) + 0.4 * first[:, :, None] * second[:, None, :]
        triples = [rng.multinomial(n, row.ravel()) for n, row in zip(case.sizes, joint, strict=True)]
        labels, answers, others = np.repeat(places, np.concatenate(triples), axis=1)
        true.append(np.mean(np.diagonal(first - joint.sum(1))))
        changes = comparison.differences(labels, answers, others, size)
        found.append(changes["balanced_accuracy"]["interval"])
    return share_inside(np.array(true), found)


def bootstrap_coverage(case: Case, *, replicates: int, seed: int = 0) -> float:
    """Returns the same for balanced accuracy by percentiles of the bootstrap that resamples all examples."""
    rng = np.random.default_rng(seed)
    models = shares(case, replicates, rng)
    found = []
    for counts in drawn(case, models, rng):
        draws = rng.multinomial(counts.sum(), counts.ravel() / counts.sum(), size=500)
        values = classification.balanced_accuracy(draws.reshape(500, *counts.shape))
        found.append(np.quantile(values, [0.025, 0.975]))
    return share_inside(np.diagonal(models, axis1=1, axis2=2).mean(1), found)


def share_inside(true: np.ndarray, bounds) -> float:
    low, high = np.array(bounds).T
    return float(np.mean((low <= true) & (true <= high)))


def table(*, replicates: int) -> str:
    """Returns the Markdown table of docs/evaluation.md, in per cent."""
    names = ("balanced accuracy", "macro-F1", "F1 of the rarest class", "difference of balanced accuracies")
    lines = [
        "| class sizes | recall | " + " | ".join((*names, "bootstrap of all examples")) + " |",
        "|" + "---|" * 7,
    ]
    for title, sizes in SIZES.items():
        for skill, recall in SKILLS.items():
            case = Case(sizes=sizes, recall=recall)
            found = list(coverage(case, replicates=replicates).values())
            found += [paired_coverage(case, replicates=replicates // 10)]
            found += [bootstrap_coverage(case, replicates=replicates // 10)]
            shown = " | ".join(f"{100 * value:.1f}" for value in found)
            lines.append(f"| {title} | {skill.removeprefix('recall ')} | {shown} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(replicates=20_000))
