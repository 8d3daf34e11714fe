"""The section on training: learning curves, uncertainty weights, class and sampling shares."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from softbio_jax.evaluation import charts
from softbio_jax.evaluation.report.document import NOTHING, Block, Figure, Figures, Section, Table, Text
from softbio_jax.evaluation.report.runs import Run
from softbio_jax.tasks import MISSING, TASKS
from softbio_jax.thesis import composite as composite_lib

Series = dict[str, tuple[list[float], list[float]]]


def section(runs: Sequence[Run]) -> Section:
    """Returns what the runs logged while training, and what they were trained on."""
    blocks: list[Block] = []
    for run in (run for run in runs if not run.external):
        items = _curves(run)
        if items:
            blocks.append(Figures(title=f"{run.name}: curves", items=tuple(items)))
        else:
            blocks.append(Text(text=f"{run.name}: no metrics.jsonl, so no curves."))
    for run in (run for run in runs if not run.external):
        items = _histograms(run)
        blocks.append(Figures(title=f"{run.name}: classes", items=tuple(items)))
        if not run.info.get("sampling"):
            blocks.append(
                Text(
                    text=f"{run.name}: run.json has no sampling counts, so only the test sets' "
                    "classes are shown."
                )
            )
    if any(sampling(run, task) for run in runs for task in composite_lib.DRAWN):
        blocks.append(_composite(runs))
    return Section(title="Training", blocks=tuple(blocks))


def series(log: Sequence[Mapping[str, Any]], prefix: str, *, suffix: str = "") -> Series:
    """Collects the logged scalars between a prefix and a suffix of their keys.

    Args:
      log: one mapping a logged step, with the key `step`.
      prefix: such as "train/loss".
      suffix: such as "/accuracy".

    Returns:
      The rest of the key (or the prefix's last part where there is none) -> steps and values.
    """
    found: Series = {}
    for line in log:
        for key, value in line.items():
            if not key.startswith(prefix) or not key.endswith(suffix) or key == "step":
                continue
            rest = key[len(prefix) : len(key) - len(suffix)].strip("/")
            if key[len(prefix) : len(prefix) + 1] not in ("", "/"):
                continue  # train/loss_scale is not below train/loss
            steps, values = found.setdefault(rest or "total", ([], []))
            steps.append(line["step"])
            values.append(math.nan if value is None else float(value))
    # The same order, and so the same colours, in every panel.
    order = [*(task for task in TASKS if task in found), *sorted(set(found) - set(TASKS))]
    return {name: found[name] for name in order}


def _curves(run: Run) -> list[Figure]:
    log_var = series(run.log, "train/log_var")
    log_sigma = {task: (steps, [v / 2 for v in values]) for task, (steps, values) in log_var.items()}
    log, weights = run.log, series(run.log, "train/weight")
    validated = series(log, "val", suffix="/accuracy")
    panels: list[tuple[str, str, str, Series]] = [
        ("train_loss", "Training loss", "nats", series(log, "train/loss")),
        ("val_loss", "Validation loss", "nats", series(log, "val", suffix="/loss")),
        ("train_accuracy", "Training accuracy", "%", _percent(series(log, "train/accuracy"))),
        ("val_accuracy", "Validation accuracy", "%", _percent(validated)),
        ("log_sigma", "Learned uncertainty", "log σ = s / 2", log_sigma),
        ("weights", "Loss weights", "in the sum", weights if len(weights) > 1 else {}),
    ]
    return [
        Figure(
            name=f"curve_{key}_{run.name}",
            caption=f"{run.name}: {title.lower()} over training.",
            figure=charts.curves(lines, title=title, y_label=unit),
        )
        for key, title, unit, lines in panels
        if lines
    ]


def _percent(found: Series) -> Series:
    return {k: (steps, [100 * v for v in values]) for k, (steps, values) in found.items()}


def _histograms(run: Run) -> list[Figure]:
    figures = []
    for task, spec in TASKS.items():
        shares: dict[str, Sequence[float]] = {}
        for kind, counts in sampling(run, task).items():
            shares[{"raw": "training set", "drawn": "as sampled"}[kind]] = normalised(counts)
        for name, item in run.predictions.items():
            labels = item.labels.get(task, np.array([MISSING]))
            labels = labels[labels != MISSING]
            if len(labels):
                shares[name] = normalised(np.bincount(labels, minlength=spec.num_classes))
        if shares:
            figures.append(
                Figure(
                    name=f"classes_{task}_{run.name}",
                    caption=f"{run.name}: share of each {task} class in training and test sets.",
                    figure=charts.histogram(spec.classes, shares, title=f"{task.capitalize()} classes"),
                )
            )
    return figures


def sampling(run: Run, task: str) -> dict[str, list[float]]:
    """Returns the counts a class of a run's training set, as `raw` and `drawn` (C,) each.

    Empty where run.json does not have them.
    """
    return (run.info.get("sampling") or {}).get(task, {})


def normalised(counts: Sequence[float] | np.ndarray) -> list[float]:
    """Returns counts as shares of their sum, zeros if there is nothing."""
    total = float(np.sum(counts))
    return [float(count) / total if total else 0.0 for count in counts]


def _composite(runs: Sequence[Run]) -> Table:
    """The thesis' training composite beside each run's."""
    composite = composite_lib.class_counts()
    tasks = [task for task in composite if any(sampling(run, task) for run in runs)]
    own = [run for run in runs if any(sampling(run, task) for task in tasks)]
    rows = []
    for task in tasks:
        counts = composite[task]
        shares, drawn = normalised(counts), composite_lib.DRAWN[task]
        for index, name in enumerate(TASKS[task].classes):
            cells = [f"{counts[index]:,}", f"{100 * shares[index]:.2f}", f"{drawn[index]:.2f}"]
            for run in own:
                known = sampling(run, task)
                raw = known.get("raw")
                cells.append(f"{int(raw[index]):,}" if raw else NOTHING)
                for kind in ("raw", "drawn"):
                    values = known.get(kind)
                    cells.append(f"{100 * normalised(values)[index]:.2f}" if values else NOTHING)
            rows.append((task, name, *cells))
    three = ("n", "%", "% sampled")
    return Table(
        title="Training classes",
        groups=(("", 2), ("Paper", 3), *((run.name, 3) for run in own)),
        header=("task", "class", *three * (1 + len(own))),
        rows=tuple(rows),
        text_columns=2,
    )
