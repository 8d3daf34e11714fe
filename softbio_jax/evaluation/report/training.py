"""The section on training: learning curves, uncertainty weights, class and sampling shares."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from softbio_jax import coverage
from softbio_jax.evaluation import charts
from softbio_jax.evaluation.report.document import NOTHING, Block, Figure, Figures, Section, Table, Text
from softbio_jax.evaluation.report.results import marked_by
from softbio_jax.evaluation.report.runs import RunResults
from softbio_jax.tasks import MISSING, TASKS

Series = dict[str, tuple[list[float], list[float]]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingSet:
    """A published training set, shown beside those of the runs.

    Args:
      counts: task -> (C,) number of examples of each class.
      drawn: task -> (C,) share of each class among the examples sampled in an epoch.
    """

    name: str
    counts: Mapping[str, Sequence[float] | np.ndarray]
    drawn: Mapping[str, Sequence[float] | np.ndarray]


def section(runs: Sequence[RunResults], *, published: TrainingSet | None = None) -> Section:
    """Returns what the runs logged while training, and what they were trained on."""
    own = [run for run in runs if not run.external]
    blocks: list[Block] = []
    for run in own:
        items = _curves(run)
        if items:
            blocks.append(Figures(title=f"{run.name}: curves", items=tuple(items)))
        else:
            blocks.append(Text(text=f"{run.name}: no metrics.jsonl, so no curves."))
    for run in own:
        blocks.append(Figures(title=f"{run.name}: classes", items=tuple(_histograms(run))))
        if not run.info.get("sampling"):
            text = f"{run.name}: run.json has no sampling counts, so only the test sets' classes are shown."
            blocks.append(Text(text=text))
    recorded = {run.name: {task: counts for task in TASKS if (counts := sampling(run, task))} for run in runs}
    if any(recorded.values()):
        blocks.append(_classes(runs, recorded, published))
    return Section(title="Training", blocks=tuple(blocks))


def series(log: Sequence[Mapping[str, Any]], prefix: str, *, suffix: str = "") -> Series:
    """Collects the logged scalars between a prefix ("val") and a suffix ("/loss") of their keys.

    Returns:
      The rest of the key ("total" if there is none) -> steps and values.
    """
    found: Series = {}
    for line in log:
        for key, value in line.items():
            if not key.startswith(prefix) or not key.endswith(suffix) or key == "step":
                continue
            rest = key[len(prefix) : len(key) - len(suffix)]
            if key[len(prefix) : len(prefix) + 1] not in ("", "/"):
                continue  # train/loss_scale is not below train/loss
            steps, values = found.setdefault(rest.strip("/") or "total", ([], []))
            steps.append(line["step"])
            values.append(math.nan if value is None else float(value))
    # The same order, and so the same colours, in every panel.
    order = [*(task for task in TASKS if task in found), *sorted(set(found) - set(TASKS))]
    return {name: found[name] for name in order}


def _curves(run: RunResults) -> list[Figure]:
    log, weights = run.log, series(run.log, "train/weight")
    panels: list[tuple[str, str, str, float, Series]] = [
        ("train_loss", "Training loss", "nats", 1, series(log, "train/loss")),
        ("val_loss", "Validation loss", "nats", 1, series(log, "val", suffix="/loss")),
        ("train_accuracy", "Training accuracy", "%", 100, series(log, "train/accuracy")),
        ("val_accuracy", "Validation accuracy", "%", 100, series(log, "val", suffix="/accuracy")),
        ("log_sigma", "Learned uncertainty", "log σ = s / 2", 0.5, series(log, "train/log_var")),
        ("weights", "Loss weights", "in the sum", 1, weights if len(weights) > 1 else {}),
    ]
    return [
        Figure(
            name=f"curve_{key}_{run.name}",
            caption=f"{run.name}: {title.lower()} over training.",
            figure=charts.curves(
                {name: (steps, [scale * v for v in values]) for name, (steps, values) in lines.items()},
                title=title,
                y_label=unit,
            ),
        )
        for key, title, unit, scale, lines in panels
        if lines
    ]


def _histograms(run: RunResults) -> list[Figure]:
    figures = []
    for task, spec in TASKS.items():
        names = {"raw": "training set", "drawn": "as sampled"}
        shares = {names[kind]: normalised(counts) for kind, counts in sampling(run, task).items()}
        for name, item in run.predictions.items():
            labels = item.labels.get(task, np.array([MISSING]))
            labels = labels[labels != MISSING]
            if len(labels):
                shares[name] = normalised(np.bincount(labels, minlength=spec.num_classes))
        if shares:
            caption = f"{run.name}: share of each {task} class in training and test sets."
            caption += "".join(f" {coverage.MARK} {n}." for n in coverage.notes(run.images, [task]))
            classes = coverage.marked_classes(run.images, task)
            figure = charts.histogram(classes, shares, title=f"{task.capitalize()} classes")
            figures.append(Figure(name=f"classes_{task}_{run.name}", caption=caption, figure=figure))
    return figures


def sampling(run: RunResults, task: str) -> dict[str, list[float]]:
    """Returns the `raw` and `drawn` counts (C,) of a run's training set, if run.json has them."""
    return (run.info.get("sampling") or {}).get(task, {})


def normalised(counts: Sequence[float] | np.ndarray) -> list[float]:
    """Returns counts as shares of their sum, zeros if all are zero."""
    total = float(np.sum(counts))
    return [float(count) / total if total else 0.0 for count in counts]


def _classes(
    runs: Sequence[RunResults],
    recorded: Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]],
    published: TrainingSet | None,
) -> Table:
    """Returns the classes of the training sets: the published one, then run -> task -> `sampling`."""
    columns: dict[str, Mapping[str, Mapping[str, Any]]] = {}
    if published is not None:
        columns[published.name] = {
            task: {"raw": published.counts[task], "drawn": published.drawn[task]} for task in published.counts
        }
    columns |= {name: tasks for name, tasks in recorded.items() if tasks}
    rows = []
    for task in (task for task in TASKS if any(task in tasks for tasks in recorded.values())):
        for index, name in enumerate(TASKS[task].classes):
            cells = []
            for tasks in columns.values():
                counts = tasks.get(task, {})
                cells.append(f"{int(counts['raw'][index]):,}" if counts.get("raw") is not None else NOTHING)
                for kind in ("raw", "drawn"):
                    values = counts.get(kind)
                    share = None if values is None else normalised(values)[index]
                    cells.append(NOTHING if share is None else f"{100 * share:.2f}")
            rows.append((task, marked_by(runs, task, name), *cells))
    return Table(
        title="Training classes",
        groups=(("", 2), *((name, 3) for name in columns)),
        header=("task", "class", *("n", "%", "% sampled") * len(columns)),
        rows=tuple(rows),
        notes=tuple(f"{coverage.MARK} {run.name}: {n}." for run in runs for n in coverage.notes(run.images)),
        text_columns=2,
    )
