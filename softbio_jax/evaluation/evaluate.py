"""Predictions in, an evaluation directory out: figures, tables of predictions and pictures."""

import json
import os
import pathlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath

from softbio_jax import files
from softbio_jax.data.sources import PreparedDataset
from softbio_jax.errors import UserError
from softbio_jax.evaluation import collect, plots, predictions_csv, speed
from softbio_jax.evaluation.metrics import averages, calibration, intervals
from softbio_jax.evaluation.metrics.per_task import task_figures
from softbio_jax.evaluation.predictions import Predictions
from softbio_jax.runs import directory
from softbio_jax.runs.data import open_all
from softbio_jax.runs.restore import restore_run
from softbio_jax.runs.session import Session
from softbio_jax.tasks import TASKS

HEADER = ("test set", "task", "n", "accuracy", "floor", "balanced", "macro-F1")


def text(summary: Mapping[str, Any]) -> str:
    """Lays out the figures of `evaluate.summarise` for reading, all in per cent.

    Args:
      summary: what `evaluate.summarise` or `evaluate.write` returned.

    Returns:
      Several lines: a row a test set and task with the majority class's accuracy (floor)
      beside it, then the averages. A star marks figures that stay out of the averages.
    """
    rows = []
    synthetic = summary["synthetic_labels"]
    for name, tasks in summary["datasets"].items():
        for task, figures in tasks.items():
            star = " *" if task in synthetic.get(name, ()) else ""
            rows.append(
                (
                    name,
                    task + star,
                    f"{figures['n']:,}",
                    *(
                        percent(figures[key])
                        for key in ("accuracy", "majority", "balanced_accuracy", "macro_f1")
                    ),
                )
            )
    lines = [aligned([HEADER, *rows])]
    averages = "   ".join(f"{task} {percent(value)}" for task, value in summary["averages"].items())
    lines.append(f"averages: {averages or 'none'}")
    if any(synthetic.values()):
        lines.append("* labels are a model's output: not in the averages")
    return "\n".join(lines)


def percent(value: float) -> str:
    """Returns a share as per cent with two decimals."""
    return f"{100 * value:.2f}"


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Returns rows of cells as aligned lines: the first two columns left, figures right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.ljust(width) if i < 2 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


SCHEMA = 2  # 2: intervals of averages and classes
DIRECTORY = "eval"
# Enough points for a picture of the feature space, few enough to keep beside the figures.
MAX_FEATURES = 1000


def summarise(
    predictions: Sequence[Predictions], *, model: Mapping[str, Any], validation: Predictions | None = None
) -> dict[str, Any]:
    """Computes every figure of one model's predictions.

    Args:
      predictions: one item a test set, with distinct names.
      model: `variant`, `method`, `trainable_params`, `total_params` and whatever else
        describes the model; copied as it is.
      validation: predictions on validation examples, on which each task's temperature is fitted.

    Returns:
      JSON values: `model`, `datasets` (test set -> task -> figures), `averages` (task and
      `overall` -> accuracy) and their `average_intervals`, `averaged_sets` (task -> test sets),
      `synthetic_labels`, `temperatures` (task -> T, empty without validation) and `classes`.

    Raises:
      UserError: no test set, or two of the same name.
    """
    names = [item.name for item in predictions]
    if not names or len(set(names)) != len(names):
        raise UserError(
            "test sets",
            expected="at least one, with distinct names",
            found=", ".join(names),
            fix="name each test set once",
        )
    temperatures = {}
    if validation is not None:
        for task in validation.tasks():
            temperatures[task] = calibration.fit_temperature(*validation.labelled(task))
    datasets = {
        item.name: {
            task: task_figures(item, task, temperature=temperatures.get(task)) for task in item.tasks()
        }
        for item in predictions
    }
    accuracies = {
        name: {task: figures["accuracy"] for task, figures in tasks.items()}
        for name, tasks in datasets.items()
    }
    synthetic = {item.name: list(item.synthetic_labels) for item in predictions if item.synthetic_labels}
    return {
        "schema": SCHEMA,
        "model": dict(model),
        "datasets": datasets,
        "averages": averages.task_averages(accuracies, synthetic_labels=synthetic),
        "average_intervals": {
            key: list(bounds) for key, bounds in intervals.of_averages(predictions, synthetic).items()
        },
        "averaged_sets": averages.averaged_sets(accuracies, synthetic_labels=synthetic),
        "synthetic_labels": synthetic,
        "temperatures": temperatures,
        "classes": {task.name: list(task.classes) for task in TASKS.values()},
    }


def write(
    directory: str | os.PathLike,
    predictions: Sequence[Predictions],
    *,
    model: Mapping[str, Any],
    validation: Predictions | None = None,
    features: Mapping[str, np.ndarray] | None = None,
) -> dict[str, Any]:
    """Writes `directory/eval` whole or not at all, in place of an earlier one.

    It holds `metrics.json` (see `summarise`), `predictions/{test set}.csv`,
    `confusion/{test set}_{task}.png`, with a validation set `validation.csv`, and with features
    `features/{test set}.npz`: the `rows` of the table that `feature_rows` chose and their
    `features`.

    Args:
      directory: the run's directory.
      predictions: one item a test set.
      model: see `summarise`.
      validation: see `summarise`.
      features: test set of N examples -> (M, D) pooled features of the rows `feature_rows(N)`,
        for pictures of the feature space.

    Returns:
      What `metrics.json` holds.

    Raises:
      UserError: see `summarise`.
    """
    summary = summarise(predictions, model=model, validation=validation)
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
    if validation is not None:
        predictions_csv.save(validation, new / "validation.csv")
    sizes = {item.name: len(item.ids) for item in predictions}
    for name, values in (features or {}).items():
        _save_features(new / "features" / f"{name}.npz", feature_rows(sizes[name]), values)
    text = json.dumps(summary, indent=1, allow_nan=False)
    (new / "metrics.json").write_text(text + "\n", encoding="utf-8")
    _replace(new, final)
    return summary


def feature_rows(n: int) -> np.ndarray:
    """Returns which of n examples' features are kept, ascending: all, or `MAX_FEATURES` of them.

    Evenly spaced, so that a table sorted by class still gives every class.

    Returns:
      (min(n, MAX_FEATURES),) int64.
    """
    return np.unique(np.linspace(0, n - 1, min(n, MAX_FEATURES)).astype(np.int64))


def _save_features(path: pathlib.Path, rows: np.ndarray, features: np.ndarray) -> None:
    if features.shape[:1] != rows.shape:
        raise ValueError(f"{len(rows)} rows and features {features.shape}")
    path.parent.mkdir(exist_ok=True)
    np.savez(path, rows=rows, features=features.astype(np.float32))


def _replace(new: pathlib.Path, final: pathlib.Path) -> None:
    # A directory cannot be renamed over a full one, so the old one steps aside first.
    old = final.with_name(f".{final.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if final.exists():
        final.rename(old)
    new.rename(final)
    shutil.rmtree(old, ignore_errors=True)


def evaluate(
    session: Session,
    sets: Sequence[PreparedDataset],
    workdir: epath.PathLike,
    *,
    val: Sequence[PreparedDataset] = (),
    between: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Writes eval/metrics.json, predictions and confusion matrices, and prints the table.

    Args:
      session: the run.
      sets: the test sets.
      workdir: where eval/ is written, local or gs://.
      val: the validation rows, on which each task's temperature is fitted.
      between: called before every batch; it may raise to end the evaluation.

    Returns:
      The contents of metrics.json; empty without test sets.
    """
    outputs = [
        session.predict(dataset, feature_rows=feature_rows(len(dataset)), between=between) for dataset in sets
    ]
    results = [collect.predictions(out, item) for out, item in zip(outputs, sets, strict=True)]
    held = [session.predict(dataset, between=between) for dataset in val] if results else []
    if not results or jax.process_index() != 0:
        return {}
    run = session.run
    trained, total = run.trained_and_total()
    with files.staged(workdir, name=DIRECTORY, last="metrics.json") as folder:
        summary = write(
            folder,
            results,
            model={
                "variant": run.model.config.name,
                "method": run.method.name,
                "trainable_params": trained,
                "total_params": total,
            },
            validation=collect.validation_predictions(held, val) if held else None,
            features=collect.kept_features(outputs, sets),
        )
    print(text(summary), flush=True)
    return summary


def evaluate_run(
    workdir: epath.PathLike, *, out: epath.PathLike, data_root: str | None = None, timed: bool = False
) -> dict[str, Any]:
    """Evaluates a run directory on its test sets and writes out/eval.

    Args:
      workdir: the run.
      out: where eval/ is written.
      data_root: where the prepared sets are, if not where the run found them.
      timed: also measures how fast it predicts and adds `inference` to the run's run.json.

    Returns:
      The contents of metrics.json.
    """
    session = restore_run(workdir, data_root=data_root)
    data = open_all(session.run.config.data)
    summary = evaluate(session, data.test, out, val=data.val)
    if timed:
        found = speed.measure(session)
        if jax.process_index() == 0:
            directory.update(workdir, {"inference": found})
            print(speed.text(found), flush=True)
    return summary
