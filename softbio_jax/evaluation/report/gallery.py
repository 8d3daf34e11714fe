"""Pages of a model's most confident mistakes, for the owner of the data only.

A gallery shows the faces themselves, so by default it is written beside the private data that they
come from and never into a report that is passed on.
"""

import base64
import dataclasses
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from softbio_jax import coverage, files
from softbio_jax.data import sources
from softbio_jax.errors import UserError
from softbio_jax.evaluation.predictions import Predictions
from softbio_jax.evaluation.report import render as render_lib
from softbio_jax.evaluation.report.document import file_stem
from softbio_jax.evaluation.report.runs import RunResults
from softbio_jax.tasks import MISSING, TASKS

BARS = 3  # classes shown below an image: the most probable ones, and always the true one

ReadImage = Callable[[str], bytes]  # id -> encoded image (JPEG or PNG)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Example:
    """One image of a gallery: its row in the predictions, true class and probabilities (C,)."""

    row: int
    label: int
    probabilities: np.ndarray

    @property
    def predicted(self) -> int:
        return int(self.probabilities.argmax())


def confident_mistakes(predictions: Predictions, task: str, *, count: int) -> list[list[Example]]:
    """Returns C lists of at most `count` mistakes, one per true class, the most confident first."""
    labels, probabilities = predictions.labels[task], predictions.probabilities[task]
    predicted, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    order = np.argsort(-confidence, kind="stable")
    return [
        _examples(predictions, task, order[(labels[order] == label) & (predicted[order] != label)][:count])
        for label in range(TASKS[task].num_classes)
    ]


def sample(predictions: Predictions, task: str, *, count: int, seed: int = 0) -> list[Example]:
    """Returns random labelled examples, right or wrong."""
    known = np.flatnonzero(predictions.labels[task] != MISSING)
    return _examples(predictions, task, np.random.default_rng(seed).permutation(known)[:count])


def _examples(predictions: Predictions, task: str, rows: np.ndarray) -> list[Example]:
    labels, probabilities = predictions.labels[task], predictions.probabilities[task]
    return [Example(row=int(row), label=int(labels[row]), probabilities=probabilities[row]) for row in rows]


def render(
    predictions: Predictions,
    read: ReadImage,
    *,
    count: int = 8,
    seed: int = 0,
    images: coverage.TrainingImages = coverage.UNKNOWN,
) -> str:
    """Returns a page of one test set: mistakes per class and a random sample, for every task.

    At most `count` images are shown per class; the sample has twice as many. Classes
    that have no training images in `images` are marked.
    """
    parts = []
    for task in predictions.tasks():
        classes = coverage.marked_classes(images, task)
        mistakes = confident_mistakes(predictions, task, count=count)
        rows = [
            (f"truly {name}", [_shown(predictions, classes, example, read) for example in examples])
            for name, examples in zip(classes, mistakes, strict=True)
            if examples
        ]
        parts.append((f"{task}: most confident mistakes", rows))
        examples = sample(predictions, task, count=2 * count, seed=seed)
        shown = [_shown(predictions, classes, example, read) for example in examples]
        parts.append((f"{task}: random examples", [("", shown)]))
    notes = [f"{coverage.MARK} {note}" for note in coverage.notes(images, predictions.tasks())]
    return render_lib.template("gallery.html").render(name=predictions.name, parts=parts, notes=notes)


def _shown(
    predictions: Predictions, classes: Sequence[str], example: Example, read: ReadImage
) -> dict[str, Any]:
    """Returns what the template shows of an example."""
    name = str(predictions.ids[example.row])
    data = read(name)
    shown = list(np.argsort(-example.probabilities)[:BARS])
    if example.label not in shown:
        shown.append(example.label)
    kinds = {example.predicted: "wrong", example.label: "true"}
    true, predicted = classes[example.label], classes[example.predicted]
    return {
        "id": name,
        "caption": true if true == predicted else f"{true}, taken for {predicted}",
        "mime": "image/png" if data.startswith(b"\x89PNG") else "image/jpeg",
        "data": base64.b64encode(data).decode(),
        "bars": [
            (kinds.get(int(index), "other"), classes[index], f"{100 * example.probabilities[index]:.0f}")
            for index in shown
        ],
    }


def image_reader(directory: str | os.PathLike, split: str) -> ReadImage:
    """Returns a function from ids to the encoded images of a prepared data set."""
    dataset = sources.open_prepared(directory, split)
    position = {name: row for row, name in enumerate(dataset.columns["id"].tolist())}
    return lambda name: dataset[position[name]]


def write_galleries(
    runs: Sequence[RunResults], data_root: str | os.PathLike, out: str | os.PathLike
) -> list[pathlib.Path]:
    """Writes one gallery per run and test set of its config (`data.test`) and returns the pages.

    Raises:
      UserError: a run whose config names no test set, or a data set that does not exist.
    """
    written = []
    for run in (run for run in runs if not run.external):
        names = run.config.get("data", {}).get("test", ())
        if not names:
            where, fix = f"{run.path}/config.json", "omit --gallery, or train with data.test=NAME/SPLIT"
            raise UserError("no gallery without test sets in data.test", where=where, fix=fix)
        for test_set in names:
            name, _, split = test_set.rpartition("/")
            if name not in run.predictions:
                continue
            read = image_reader(pathlib.Path(data_root) / name, split)
            path = pathlib.Path(out) / f"{file_stem(run.name)}_{file_stem(name)}.html"
            files.write_text(path, render(run.predictions[name], read, images=run.images))
            written.append(path)
    return written
