"""Predictions in, an evaluation directory out: figures, tables of predictions and pictures."""

import json
import os
import pathlib
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

from softbio_jax.errors import UserError
from softbio_jax.evaluation import averages, metrics, plots, predictions_csv
from softbio_jax.evaluation.predictions import Predictions
from softbio_jax.tasks import TASKS

SCHEMA = 1
DIRECTORY = "eval"


def summarise(predictions: Sequence[Predictions], *, model: Mapping[str, Any]) -> dict[str, Any]:
    """Computes every figure of one model's predictions.

    Args:
      predictions: one item a test set, with distinct names.
      model: `variant`, `method`, `trainable_params`, `total_params` and whatever else
        describes the model; copied as it is.

    Returns:
      JSON values: `model`, `datasets` (test set -> task -> figures), `averages` (task and
      `overall` -> accuracy), `averaged_sets` (task -> test sets) and `synthetic_labels`.

    Raises:
      UserError: no test set, or two of the same name.
    """
    names = [item.name for item in predictions]
    if not names or len(set(names)) != len(names):
        raise UserError(
            "test sets", expected="at least one, with distinct names", found=", ".join(names)
        )
    datasets = {
        item.name: {task: task_figures(item, task) for task in item.tasks()} for item in predictions
    }
    accuracies = {
        name: {task: figures["accuracy"] for task, figures in tasks.items()}
        for name, tasks in datasets.items()
    }
    synthetic = {
        item.name: list(item.synthetic_labels) for item in predictions if item.synthetic_labels
    }
    return {
        "schema": SCHEMA,
        "model": dict(model),
        "datasets": datasets,
        "averages": averages.task_averages(accuracies, synthetic_labels=synthetic),
        "averaged_sets": averages.averaged_sets(accuracies, synthetic_labels=synthetic),
        "synthetic_labels": synthetic,
        "classes": {task.name: list(task.classes) for task in TASKS.values()},
    }


def task_figures(predictions: Predictions, task: str) -> dict[str, Any]:
    """Returns the figures of one task on one test set as JSON values."""
    labels, probabilities = predictions.labelled(task)
    counts = metrics.confusion_counts(labels, probabilities.argmax(axis=1), TASKS[task].num_classes)
    return metrics.from_counts(task, counts)


def write(
    directory: str | os.PathLike,
    predictions: Sequence[Predictions],
    *,
    model: Mapping[str, Any],
) -> dict[str, Any]:
    """Writes `directory/eval` whole or not at all, in place of an earlier one.

    It holds `metrics.json` (see `summarise`), `predictions/{test set}.csv` and
    `confusion/{test set}_{task}.png`.

    Args:
      directory: the run's directory.
      predictions: one item a test set.
      model: see `summarise`.

    Returns:
      What `metrics.json` holds.

    Raises:
      UserError: see `summarise`.
    """
    summary = summarise(predictions, model=model)
    final = pathlib.Path(directory) / DIRECTORY
    new = final.with_name(f".{DIRECTORY}.new")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    for item in predictions:
        predictions_csv.save(item, new / "predictions" / f"{item.name}.csv")
        for task, figures in summary["datasets"][item.name].items():
            figure = plots.confusion_matrix(
                figures["confusion"], TASKS[task].classes, title=f"{task} on {item.name}"
            )
            plots.save_png(figure, new / "confusion" / f"{item.name}_{task}.png")
    (new / "metrics.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    _replace(new, final)
    return summary


def _replace(new: pathlib.Path, final: pathlib.Path) -> None:
    # A directory cannot be renamed over a full one, so the old one steps aside first.
    old = final.with_name(f".{final.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if final.exists():
        final.rename(old)
    new.rename(final)
    shutil.rmtree(old, ignore_errors=True)
