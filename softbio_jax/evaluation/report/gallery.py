"""Pictures of a model's most confident mistakes: for the owner of the data alone.

A gallery shows the faces themselves, so it is written beside the private data that they come
from and never into a report that is passed on, unless that is asked for.
"""

import base64
import dataclasses
import html
import os
import pathlib
from collections.abc import Callable, Sequence

import numpy as np

from softbio_jax import files
from softbio_jax.data import sources
from softbio_jax.errors import UserError
from softbio_jax.evaluation.predictions import Predictions
from softbio_jax.evaluation.report.document import file_stem
from softbio_jax.evaluation.report.runs import Run
from softbio_jax.tasks import MISSING, TASKS

STYLE = """
body { margin: 1.5rem; font: 14px/1.4 system-ui, sans-serif; color: #1c2733; }
h2 { border-bottom: 2px solid #1c2733; } .row { display: flex; flex-wrap: wrap; gap: .8rem; }
figure { margin: 0; width: 9.5rem; break-inside: avoid; }
img { width: 100%; image-rendering: auto; border-radius: .3rem; display: block; }
figcaption { font-size: .78rem; overflow-wrap: anywhere; }
.bar { display: grid; grid-template-columns: 5.4rem 1fr; gap: .3rem; font-size: .72rem; }
.bar i { height: .6rem; align-self: center; background: #9ec3e6; }
.true i { background: #009e73; } .wrong i { background: #d55e00; }
.warning { padding: .6rem .9rem; border-left: 4px solid #d55e00; background: #fdf3ec; }
"""
BARS = 3  # classes shown below a picture: the likeliest, and the true one in any case


@dataclasses.dataclass(frozen=True, kw_only=True)
class Example:
    """One picture of a gallery.

    Args:
      row: its index in the predictions.
      label: its true class.
      probabilities: (C,).
    """

    row: int
    label: int
    probabilities: np.ndarray

    @property
    def predicted(self) -> int:
        return int(self.probabilities.argmax())


def confident_mistakes(predictions: Predictions, task: str, *, count: int) -> list[list[Example]]:
    """Returns the mistakes with the highest confidence, for each true class.

    Args:
      predictions: one test set.
      task: a task that it has.
      count: how many a class at most.

    Returns:
      C lists, the most confident mistake first.
    """
    labels, probabilities = predictions.labels[task], predictions.probabilities[task]
    predicted, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    order = np.argsort(-confidence, kind="stable")
    return [
        [
            Example(row=int(row), label=label, probabilities=probabilities[row])
            for row in order[(labels[order] == label) & (predicted[order] != label)][:count]
        ]
        for label in range(TASKS[task].num_classes)
    ]


def sample(predictions: Predictions, task: str, *, count: int, seed: int = 0) -> list[Example]:
    """Returns random labelled examples, right or wrong, as the test set has them."""
    known = np.flatnonzero(predictions.labels[task] != MISSING)
    rows = np.random.default_rng(seed).permutation(known)[:count]
    labels, probabilities = predictions.labels[task], predictions.probabilities[task]
    return [Example(row=int(row), label=int(labels[row]), probabilities=probabilities[row]) for row in rows]


def render(
    predictions: Predictions, picture: Callable[[str], bytes], *, count: int = 8, seed: int = 0
) -> str:
    """Returns a page of one test set: mistakes a class and a random sample, for every task.

    Args:
      predictions: one test set.
      picture: id -> encoded image (JPEG or PNG).
      count: pictures a class, and twice as many in the sample.
      seed: of the sample.
    """
    body = []
    for task in predictions.tasks():
        classes = TASKS[task].classes
        body.append(f"<h2>{task}: most confident mistakes</h2>")
        found = confident_mistakes(predictions, task, count=count)
        for name, examples in zip(classes, found, strict=True):
            if examples:
                body.append(f"<h3>truly {html.escape(name)}</h3>")
                body.append(_row(predictions, task, examples, picture))
        body.append(f"<h2>{task}: random examples</h2>")
        examples = sample(predictions, task, count=2 * count, seed=seed)
        body.append(_row(predictions, task, examples, picture))
    title = f"Error gallery: {html.escape(predictions.name)}"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><title>{title}</title><style>{STYLE}</style></head>\n'
        f'<body><h1>{title}</h1>\n<p class="warning">Private: this page holds the pictures '
        "themselves. The terms of the data set apply to it.</p>\n" + "\n".join(body) + "</body></html>\n"
    )


def write(
    path: str | os.PathLike, predictions: Predictions, picture: Callable[[str], bytes], *, count: int = 8
) -> pathlib.Path:
    """Writes the page of `render` to `path`, whole or not at all."""
    files.write_text(path, render(predictions, picture, count=count))
    return pathlib.Path(path)


def pictures(directory: str | os.PathLike, split: str) -> Callable[[str], bytes]:
    """Returns a function from ids to the encoded images of a prepared data set."""
    dataset = sources.open_prepared(directory, split)
    position = {name: row for row, name in enumerate(dataset.columns["id"].tolist())}
    return lambda name: dataset[position[name]]


def _row(
    predictions: Predictions, task: str, examples: Sequence[Example], picture: Callable[[str], bytes]
) -> str:
    figures = (_figure(predictions, task, example, picture) for example in examples)
    return f'<div class="row">{"".join(figures)}</div>'


def _figure(predictions: Predictions, task: str, example: Example, picture: Callable[[str], bytes]) -> str:
    classes = TASKS[task].classes
    name = str(predictions.ids[example.row])
    data = picture(name)
    kind = "png" if data.startswith(b"\x89PNG") else "jpeg"
    source = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    shown = list(np.argsort(-example.probabilities)[:BARS])
    if example.label not in shown:
        shown.append(example.label)
    bars = "".join(
        f'<div class="bar {_kind(index, example)}"><span>{html.escape(classes[index])} '
        f"{100 * example.probabilities[index]:.0f}%</span>"
        f'<i style="width:{100 * example.probabilities[index]:.0f}%"></i></div>'
        for index in shown
    )
    true, said = classes[example.label], classes[example.predicted]
    caption = true if true == said else f"{true}, taken for {said}"
    return (
        f'<figure><img alt="{html.escape(caption)}" src="{source}"><figcaption>'
        f"{html.escape(name)}{bars}</figcaption></figure>"
    )


def _kind(index: int, example: Example) -> str:
    if index == example.label:
        return "true"
    return "wrong" if index == example.predicted else "other"


def write_galleries(
    runs: Sequence[Run], data_root: str | os.PathLike, out: str | os.PathLike
) -> list[pathlib.Path]:
    """Writes one gallery a run and test set.

    Args:
      runs: runs whose config names their test sets as NAME/SPLIT (`data.test`).
      data_root: the folder of the prepared data sets.
      out: where to: a folder beside the data, unless pictures may leave it.

    Returns:
      The pages.

    Raises:
      UserError: a run whose config names no test set, or a data set that is not there.
    """
    written = []
    for run in (run for run in runs if not run.external):
        names = run.config.get("data", {}).get("test", ())
        if not names:
            raise UserError(
                "no gallery without test sets",
                where=f"{run.path}/config.json",
                expected="data.test with NAME/SPLIT",
                found="none",
                fix="leave --gallery out, or train with data.test",
            )
        for test_set in names:
            name, _, split = test_set.rpartition("/")
            if name not in run.predictions:
                continue
            picture = pictures(pathlib.Path(data_root) / name, split)
            path = pathlib.Path(out) / f"{file_stem(run.name)}_{file_stem(name)}.html"
            written.append(write(path, run.predictions[name], picture))
    return written
