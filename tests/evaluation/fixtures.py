"""Made-up predictions for tests: skilled enough that the metrics differ from chance."""

from collections.abc import Sequence

import numpy as np

from softbio_jax.evaluation.predictions import Predictions
from softbio_jax.tasks import MISSING, TASKS


def random_predictions(
    name: str,
    *,
    tasks: Sequence[str] = ("age", "gender"),
    n: int = 60,
    seed: int = 0,
    skill: float = 2.0,
    synthetic_labels: Sequence[str] = (),
    missing: float = 0.05,
) -> Predictions:
    """Returns n examples whose logits are noise plus `skill` at the true class."""
    labels_rng, noise_rng = np.random.default_rng(len(name)), np.random.default_rng(seed)
    labels, probabilities = {}, {}
    for task in tasks:
        size = TASKS[task].num_classes
        true = labels_rng.integers(0, size, n)
        logits = noise_rng.normal(size=(n, size))
        logits[np.arange(n), true] += skill
        values = np.exp(logits)
        probabilities[task] = values / values.sum(axis=1, keepdims=True)
        labels[task] = np.where(labels_rng.random(n) < missing, MISSING, true)
    return Predictions(
        name=name,
        ids=np.array([f"{name}/{i:05d}.jpg" for i in range(n)]),
        labels=labels,
        probabilities=probabilities,
        audit={"race": labels_rng.choice(["Black", "Indian", "White"], n)},
        synthetic_labels=tuple(synthetic_labels),
    )


def hand_made(name: str, task: str, labels: Sequence[int], probabilities: Sequence) -> Predictions:
    """Returns predictions of one task from written-out labels and probability rows."""
    return Predictions(
        name=name,
        ids=np.array([str(i) for i in range(len(labels))]),
        labels={task: np.array(labels, np.int32)},
        probabilities={task: np.array(probabilities, np.float32)},
    )
