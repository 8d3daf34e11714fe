"""Class counts of a composite training set beside those of the thesis."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from softbio_jax.data import sampling
from softbio_jax.tasks import MISSING, TASKS
from softbio_jax.thesis import protocol

# The training parts: set -> task -> rows of each class. They are published or follow from published
# numbers, and sum exactly to the thesis' tables.
PARTS: dict[str, dict[str, tuple[int, ...]]] = {
    "fairface": {"age": (1415, 8272, 7312, 20486, 15396, 8618, 4995, 2240, 661), "gender": (36_877, 32_518)},
    "lagenda": {"age": (1520, 7427, 8720, 9298, 9066, 9358, 9418, 8378, 4167), "gender": (33_218, 34_134)},
    "celeba_hq": {"gender": (8_084, 14_316)},
    "rafdb": {"gender": (3_968, 5_247), "emotion": (912, 218, 544, 3701, 1301, 556, 1983)},
}
# Set -> its other task, and the men and women of each of that task's classes: in RAF-DB's training
# part, and in the validation parts of FairFace and Lagenda, since those of training are unpublished.
_WITH_GENDER: dict[str, tuple[str, tuple[tuple[int, ...], tuple[int, ...]]]] = {
    "fairface": (
        "age",
        ((227, 1148, 820, 2199, 2177, 1329, 804, 322, 83), (150, 988, 971, 2913, 1677, 797, 429, 217, 98)),
    ),
    "lagenda": (
        "age",
        (
            (173, 966, 1089, 1099, 1123, 1114, 1131, 1039, 504),
            (193, 870, 1052, 1234, 1178, 1250, 1205, 962, 656),
        ),
    ),
    "rafdb": ("emotion", ((422, 95, 223, 1443, 453, 371, 961), (490, 123, 321, 2258, 848, 185, 1022))),
}
# Class shares of the labelled draws in one epoch of its sampler, in percent.
DRAWN: dict[str, tuple[float, ...]] = {
    "age": (6.63, 11.31, 11.36, 16.37, 14.56, 12.14, 10.89, 9.44, 7.31),
    "gender": (49.26, 50.74),
    "emotion": (12.14, 8.44, 9.99, 26.85, 14.20, 10.25, 18.13),
}
_FITTING_ROUNDS = 100
SEED = 2025


def class_counts() -> dict[str, np.ndarray]:
    """Returns task -> (C,) training rows of each class over the four sets."""
    return {task: np.sum([part[task] for part in PARTS.values() if task in part], axis=0) for task in DRAWN}


def labels() -> dict[str, np.ndarray]:
    """Returns label tables, task -> (168362,) int32, with the exact margins of every set."""
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


def _with_margins(seen: np.ndarray, by_class: tuple[int, ...], by_gender: tuple[int, ...]) -> np.ndarray:
    """Fits a (C, 2) table to margins proportionally, then rounds it keeping both margins."""
    table = seen
    for _ in range(_FITTING_ROUNDS):
        table = table * (np.array(by_class) / table.sum(axis=1))[:, None]
        table = table * (np.array(by_gender) / table.sum(axis=0))
    male = np.floor(table[:, 0]).astype(np.int64)
    by_remainder = np.argsort(male - table[:, 0])
    male[by_remainder[: by_gender[0] - male.sum()]] += 1
    return np.stack([male, np.array(by_class) - male], axis=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassRow:
    """One class of the composite beside that of the thesis."""

    task: str
    name: str
    rows: int  # labelled
    thesis_rows: int
    drawn: float  # expected share of the labelled draws under the thesis' sampler, 0 to 1
    thesis_drawn: float  # printed for one epoch
    z: float  # (thesis_drawn - drawn) in standard errors of one epoch's draws


def side_by_side(labels: Mapping[str, np.ndarray], *, seed: int = SEED) -> list[ClassRow]:
    """Compares label tables, task -> (N,), and their draws by the thesis' sampler with its tables.

    The seed selects the emotion rows that the sampler repeats. One row per class of the thesis'
    tasks that have labels.
    """
    counts = protocol.repetitions(labels, seed=seed)
    probabilities = protocol.mean_rule(labels, counts)
    thesis_counts = class_counts()
    rows = []
    for task, values in labels.items():
        known = values != MISSING
        if not known.any() or task not in thesis_counts:
            continue
        spec = TASKS[task]
        drawn = sampling.drawn_shares(values, probabilities, spec.num_classes)
        draws = counts.sum() * probabilities[known].sum()
        error = np.sqrt(np.maximum(drawn * (1 - drawn), 1e-12) / draws)
        printed = np.array(DRAWN[task]) / 100
        rows += [
            ClassRow(
                task=task,
                name=name,
                rows=int((values == c).sum()),
                thesis_rows=int(thesis_counts[task][c]),
                drawn=float(drawn[c]),
                thesis_drawn=float(printed[c]),
                z=float((printed[c] - drawn[c]) / error[c]),
            )
            for c, name in enumerate(spec.classes)
        ]
    return rows


def as_text(rows: Sequence[ClassRow]) -> str:
    """Returns the comparison as aligned columns, one block per task."""
    lines = []
    for task in TASKS:
        block = [row for row in rows if row.task == task]
        if not block:
            continue
        total, thesis_total = sum(row.rows for row in block), sum(row.thesis_rows for row in block)
        lines += [
            f"{task:<9} {'rows':>9} {'thesis':>9} {'diff':>8}   {'drawn %':>8} {'thesis %':>8} {'z':>6}",
            *(
                f"{row.name:<9} {row.rows:>9,} {row.thesis_rows:>9,} {row.rows - row.thesis_rows:>+8,}   "
                f"{100 * row.drawn:>8.2f} {100 * row.thesis_drawn:>8.2f} {row.z:>+6.2f}"
                for row in block
            ),
            f"{'total':<9} {total:>9,} {thesis_total:>9,} {total - thesis_total:>+8,}\n",
        ]
    return "\n".join(lines)


def write_chart(rows: Sequence[ClassRow], path: pathlib.Path) -> None:
    """Plots each class' share of the rows, of the draws, and of the draws in the thesis."""
    from matplotlib.figure import Figure

    tasks = [task for task in TASKS if any(row.task == task for row in rows)]
    figure = Figure(figsize=(4.5 * len(tasks), 3.6), layout="constrained")
    for axes, task in zip(figure.subplots(1, len(tasks), squeeze=False)[0], tasks, strict=True):
        block = [row for row in rows if row.task == task]
        total = max(sum(row.rows for row in block), 1)
        series = {
            "rows": [100 * row.rows / total for row in block],
            "drawn, expected": [100 * row.drawn for row in block],
            "drawn, thesis": [100 * row.thesis_drawn for row in block],
        }
        colours = ("0.75", "tab:blue", "tab:orange")
        for number, ((name, values), colour) in enumerate(zip(series.items(), colours, strict=True)):
            places = [c + 0.27 * (number - 1) for c in range(len(block))]
            axes.bar(places, values, width=0.27, label=name, color=colour)
        axes.set_xticks(range(len(block)), [row.name for row in block], rotation=45)
        axes.set(title=task, ylabel="% of labelled")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=120)
