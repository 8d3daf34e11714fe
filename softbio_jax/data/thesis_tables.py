"""The thesis' composite in numbers, and label tables that have them."""

from __future__ import annotations

import numpy as np

from softbio_jax.tasks import MISSING, TASKS

# The training parts: set -> task -> rows of each class. They are published, or follow from what
# is published, and sum to the thesis' tables exactly.
PARTS: dict[str, dict[str, tuple[int, ...]]] = {
    "fairface": {
        "age": (1415, 8272, 7312, 20486, 15396, 8618, 4995, 2240, 661),
        "gender": (36_877, 32_518),
    },
    "lagenda": {
        "age": (1520, 7427, 8720, 9298, 9066, 9358, 9418, 8378, 4167),
        "gender": (33_218, 34_134),
    },
    "celeba_hq": {"gender": (8_084, 14_316)},
    "rafdb": {"gender": (3_968, 5_247), "emotion": (912, 218, 544, 3701, 1301, 556, 1983)},
}
# How gender goes with the other task of a set, the men and the women of each class: RAF-DB's
# training part, and the validation parts of FairFace and Lagenda, whose training parts are not
# published.
_WITH_GENDER: dict[str, tuple[str, tuple[tuple[int, ...], tuple[int, ...]]]] = {
    "fairface": (
        "age",
        (
            (227, 1148, 820, 2199, 2177, 1329, 804, 322, 83),
            (150, 988, 971, 2913, 1677, 797, 429, 217, 98),
        ),
    ),
    "lagenda": (
        "age",
        (
            (173, 966, 1089, 1099, 1123, 1114, 1131, 1039, 504),
            (193, 870, 1052, 1234, 1178, 1250, 1205, 962, 656),
        ),
    ),
    "rafdb": (
        "emotion",
        ((422, 95, 223, 1443, 453, 371, 961), (490, 123, 321, 2258, 848, 185, 1022)),
    ),
}
# The classes' shares of the labelled draws of one epoch of its sampler, in percent.
DRAWN: dict[str, tuple[float, ...]] = {
    "age": (6.63, 11.31, 11.36, 16.37, 14.56, 12.14, 10.89, 9.44, 7.31),
    "gender": (49.26, 50.74),
    "emotion": (12.14, 8.44, 9.99, 26.85, 14.20, 10.25, 18.13),
}
_FITTING_ROUNDS = 100


def class_counts() -> dict[str, np.ndarray]:
    """Sums the training rows: task -> (C,) rows of each class, over the four sets."""
    return {
        task: np.sum([part[task] for part in PARTS.values() if task in part], axis=0)
        for task in DRAWN
    }


def labels() -> dict[str, np.ndarray]:
    """Makes label tables with the exact margins of every set.

    Returns:
      task -> (168362,) int32, MISSING where a set lacks the task.
    """
    columns: dict[str, list[np.ndarray]] = {task: [] for task in TASKS}
    for name, part in PARTS.items():
        rows = {"gender": np.repeat([0, 1], part["gender"])}
        if name in _WITH_GENDER:
            task, seen = _WITH_GENDER[name]
            joint = _with_margins(np.array(seen, float).T, part[task], part["gender"])
            rows = {
                task: np.repeat(np.arange(len(joint)), joint.sum(axis=1)),
                "gender": np.repeat(np.tile([0, 1], len(joint)), joint.reshape(-1)),
            }
        for task, column in columns.items():
            column.append(rows.get(task, np.full(sum(part["gender"]), MISSING)))
    return {task: np.concatenate(column).astype(np.int32) for task, column in columns.items()}


def _with_margins(
    seen: np.ndarray, by_class: tuple[int, ...], by_gender: tuple[int, ...]
) -> np.ndarray:
    """Fits a (C, 2) table to margins proportionally, then rounds it with both margins kept."""
    table = seen
    for _ in range(_FITTING_ROUNDS):
        table = table * (np.array(by_class) / table.sum(axis=1))[:, None]
        table = table * (np.array(by_gender) / table.sum(axis=0))
    male = np.floor(table[:, 0]).astype(np.int64)
    by_remainder = np.argsort(male - table[:, 0])
    male[by_remainder[: by_gender[0] - male.sum()]] += 1
    return np.stack([male, np.array(by_class) - male], axis=1)
