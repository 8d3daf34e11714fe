"""How many training images each class of a task has, and the mark of classes without any.

A run counts once, when it starts (`count`). The counts follow the model: into the run's record, its
checkpoints, its evaluation, exported folders and predictions. A task that is absent from them is
unknown, as in runs of older versions, and has no marks.
"""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from softbio_jax.tasks import MISSING, TASKS

TrainingImages = Mapping[str, Mapping[str, int]]  # task -> class -> number of training images
UNKNOWN: TrainingImages = types.MappingProxyType({})
KEY = "training_images"  # its name in run.json, checkpoints, metrics.json and config.json
MARK = "‡"


def count(labels: Mapping[str, np.ndarray], drawn: np.ndarray) -> dict[str, dict[str, int]]:
    """Counts the training images of each class: those with its label that can be drawn.

    Args:
      labels: task -> (N,) labels of the training rows, MISSING where unknown or masked.
      drawn: (N,) whether the sampler ever draws the row.

    Returns:
      task -> class -> number of images, for the tasks of `labels`.
    """
    return {task: of_labels(task, values[drawn]) for task, values in labels.items()}


def of_labels(task: str, labels: np.ndarray) -> dict[str, int]:
    """Returns class -> number of labels (N,) of a task; MISSING counts for none."""
    spec = TASKS[task]
    found = np.bincount(labels[labels != MISSING], minlength=spec.num_classes)
    return dict(zip(spec.classes, found.tolist(), strict=True))


def untrained(images: TrainingImages, task: str) -> tuple[str, ...]:
    """Returns the classes of a task that have no training image; none where that is unknown."""
    return tuple(name for name, n in images.get(task, {}).items() if n == 0)


def marked(images: TrainingImages, task: str, name: str | None = None) -> str:
    """Returns a class with `MARK` if it has no training image; without a name, the task if any has none.

    >>> marked({"gender": {"male": 0, "female": 9}}, "gender", "male")
    'male ‡'
    """
    without = untrained(images, task)
    shown = task if name is None else name
    return f"{shown} {MARK}" if (without if name is None else name in without) else shown


def marked_classes(images: TrainingImages, task: str) -> list[str]:
    """Returns the classes of a task in their order, those without training images marked."""
    return [marked(images, task, name) for name in TASKS[task].classes]


def gap(counts: Mapping[str, int], *, what: str = "image") -> str:
    """Returns what some images lack of a task's classes, or "".

    >>> gap({"male": 0, "female": 9}), gap({"male": 0, "female": 0}), gap({"male": 1, "female": 9})
    ('no image of male', 'no label', '')
    """
    without = [name for name, n in counts.items() if n == 0]
    if len(without) == len(counts):
        return "no label"
    return f"no {what} of {', '.join(without)}" if without else ""


def notes(images: TrainingImages, tasks: Sequence[str] | None = None) -> list[str]:
    """Returns one line per task that has classes without training images, without a mark."""
    found = ((task, untrained(images, task)) for task in (images if tasks is None else tasks))
    return [f"{task}: no training image of {', '.join(names)}" for task, names in found if names]


def warnings(images: TrainingImages, tests: Mapping[str, Mapping[str, Mapping[str, int]]]) -> list[str]:
    """Returns one line per task whose training or test images lack classes.

    Args:
      images: of the training set.
      tests: test set -> task -> class -> number of images; tasks of the run only.
    """
    lines = []
    for task in images:
        names = untrained(images, task)
        parts = [f"no training image of {', '.join(names)}, so such answers are marked"] if names else []
        gaps = {name: gap(counts.get(task, {}), what="test image") for name, counts in tests.items()}
        unlabelled = [name for name, text in gaps.items() if text == "no label"]
        parts += [f"no label in {', '.join(unlabelled)}"] if unlabelled else []
        parts += [f"{text} in {name}" for name, text in gaps.items() if text and name not in unlabelled]
        lines += [f"warning: {task}: {'; '.join(parts)}"] if parts else []
    return lines


def from_json(value: Any) -> TrainingImages:
    """Returns counts that were read from JSON.

    Raises:
      ValueError: another structure.
    """
    if value is None:
        return UNKNOWN
    whole = isinstance(value, Mapping) and all(isinstance(part, Mapping) for part in value.values())
    if not whole or any(type(n) is not int or n < 0 for part in value.values() for n in part.values()):
        raise ValueError(f"{KEY}: not task -> class -> number of images")
    return {str(task): {str(name): n for name, n in part.items()} for task, part in value.items()}
