"""From a trained run to its evaluation directory: metrics, predictions, confusion matrices."""

import contextlib
import dataclasses
import json
import os
import pathlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath
from scipy import special

from softbio_jax import coverage, files
from softbio_jax.console import Console, aligned, percent
from softbio_jax.data.partial import years
from softbio_jax.data.sources import PreparedDataset
from softbio_jax.errors import UserError
from softbio_jax.evaluation import plots, predictions_csv, speed
from softbio_jax.evaluation.metrics import calibration, intervals
from softbio_jax.evaluation.metrics.ages import EXPECTED_YEARS
from softbio_jax.evaluation.metrics.per_task import task_metrics
from softbio_jax.evaluation.predictions import Predictions
from softbio_jax.runs import directory
from softbio_jax.runs.data import check_tests, held_out, open_all
from softbio_jax.runs.restore import restore_run
from softbio_jax.runs.session import Outputs, Session
from softbio_jax.tasks import AGE, TASKS

SCHEMA = 3  # 2: intervals of averages and classes; 3: intervals at fixed class sizes
DIRECTORY = "eval"
MAX_FEATURES = 1000  # enough points for a plot of the feature space
_HEADER = ("test set", "task", "n", "accuracy", "majority", "balanced", "macro-F1")


def evaluate_run(
    workdir: epath.PathLike,
    *,
    out: epath.PathLike | None = None,
    data_root: str | None = None,
    tests: Sequence[str] = (),
    timed: bool = False,
) -> dict[str, Any]:
    """Evaluates a run directory on its test sets or on others, writes out/eval and prints the table.

    Data that changed since the run are an error in its own directory, and a warning elsewhere.

    Args:
      workdir: the run directory.
      out: where eval/ is written; None: the run directory, or for other test sets of a run that has its
        own, a folder in `tests/` of the run directory that is named after them.
      data_root: where the prepared sets are, if not where the run read them.
      tests: test sets in place of the run's, NAME/SPLIT below the root; empty: those of the run.
      timed: also measures prediction speed, and adds it to the run's run.json.

    Raises:
      UserError: no run, no checkpoint, no test set, data that are not the run's, or another process
        works in one of the folders.
    """
    config = directory.read_config(workdir)  # a folder that is no run is not touched
    if not tests and not config.data.test:
        raise UserError(
            "the run has no test set",
            where=str(workdir),
            expected="data.test",
            found="none",
            fix="--test=NAME/SPLIT with a set prepared by scripts/prepare_data.py",
        )
    chosen = tuple(tests) or config.data.test
    if out is None:
        beside = config.data.test and set(chosen) != set(config.data.test)
        out = epath.Path(workdir) / "tests" / "+".join(chosen).replace("/", "-") if beside else workdir
    root = data_root or config.data.root
    # Before anything is written or compiled.
    data = open_all(dataclasses.replace(config.data, root=root, test=chosen))
    if tests:
        check_tests(data, tasks=config.tasks)
    with contextlib.ExitStack() as held:
        for folder in {str(files.absolute(path)) for path in ((out, workdir) if timed else (out,))}:
            held.enter_context(directory.hold(folder))
        session = restore_run(workdir, data_root=data_root)
        console = Console(active=jax.process_index() == 0)
        changed = directory.changed_data(data, workdir)
        if changed is not None:
            if files.absolute(out) == files.absolute(workdir):
                raise changed
            console.say(f"warning: {changed}")
        summary = evaluate(session, data.test, out, val=held_out(config, data))
        console.say(f"results: {epath.Path(out) / DIRECTORY / 'metrics.json'}")
        if timed:
            found = speed.measure(session)
            if jax.process_index() == 0:
                directory.update(workdir, {"inference": found})
            console.say(speed.text(found))
        return summary


def evaluate(
    session: Session,
    sets: Sequence[PreparedDataset],
    workdir: epath.PathLike,
    *,
    val: Sequence[PreparedDataset] = (),
    model: Mapping[str, Any] | None = None,
    console: Console | None = None,
) -> dict[str, Any]:
    """Writes eval/metrics.json, predictions and confusion matrices, and prints the table.

    Args:
      session: the trained run.
      sets: the test sets.
      workdir: where eval/ is written, local or gs://.
      val: the validation rows, on which each task's temperature is fitted.
      model: see `summarise`; None: the run's summary.
      console: prints the table on the first process; checked before every batch.

    Returns:
      The contents of metrics.json; empty without test sets.
    """
    first = jax.process_index() == 0
    console = console or Console(active=first)
    outputs = [session.predict(item, feature_rows=feature_rows(len(item)), console=console) for item in sets]
    held = [session.predict(item, console=console) for item in val] if outputs else []
    if not outputs or not first:
        return {}
    rule = session.run.config.data
    with files.staged(workdir, name=DIRECTORY, last="metrics.json") as folder:
        summary = write(
            folder,
            [
                predictions_of(out, item, synthetic_labels=rule.synthetic_labels.get(item.name, ()))
                for out, item in zip(outputs, sets, strict=True)
            ],
            model=model or session.run.summary(),
            validation=_validation_predictions(held, val) if held else None,
            features=features_of(outputs, sets),
            not_averaged=rule.not_averaged,
            images=session.training_images,
        )
    console.say(text(summary))
    return summary


def predictions_of(
    outputs: Outputs, dataset: PreparedDataset, *, synthetic_labels: Sequence[str] = ()
) -> Predictions:
    """Returns the predictions of a test set, for the tasks that it has labels of; age may be ranges alone."""
    audit = {name: column for name, column in dataset.columns.items() if name != "id"}
    ids, synthetic = dataset.columns["id"], tuple(synthetic_labels)
    return _predictions(outputs, name=dataset.name, ids=ids, audit=audit, synthetic_labels=synthetic)


def _predictions(outputs: Outputs, **fields: Any) -> Predictions:
    known, audit = outputs.tasks(), fields.get("audit", {})
    aged = any((audit[name] != "").any() for name in years.COLUMNS if name in audit)
    if aged and AGE.name in outputs.logits and AGE.name not in known:
        known.append(AGE.name)
    if outputs.expected_years is not None:  # finer than the classes
        expected = np.array([f"{value:.3f}" for value in outputs.expected_years])
        fields["audit"] = {**audit, EXPECTED_YEARS: expected}
    labels = {task: outputs.labels[task] for task in known}
    probabilities = {task: special.softmax(outputs.logits[task], axis=1) for task in known}
    return Predictions(labels=labels, probabilities=probabilities, **fields)


def features_of(outputs: Sequence[Outputs], sets: Sequence[PreparedDataset]) -> dict[str, np.ndarray]:
    """Returns the features that were kept of each test set: {name: (M, D)}."""
    return {
        item.name: out.features for out, item in zip(outputs, sets, strict=True) if out.features is not None
    }


def _validation_predictions(outputs: Sequence[Outputs], sets: Sequence[PreparedDataset]) -> Predictions:
    """Returns the predictions of all validation rows, on which temperatures are fitted."""
    ids = [np.char.add(f"{dataset.name}/", dataset.columns["id"].astype(str)) for dataset in sets]
    return _predictions(Outputs.concatenate(outputs), name="validation", ids=np.concatenate(ids))


def summarise(
    predictions: Sequence[Predictions],
    *,
    model: Mapping[str, Any],
    validation: Predictions | None = None,
    not_averaged: Mapping[str, Collection[str]] | None = None,
    images: coverage.TrainingImages = coverage.UNKNOWN,
) -> dict[str, Any]:
    """Computes every metric of one model's predictions.

    Args:
      predictions: one item per test set, with distinct names.
      model: `variant`, `method`, `trainable_params`, `total_params` and other facts; copied.
      validation: predictions on validation examples, on which each task's temperature is fitted.
      not_averaged: test set -> tasks excluded from the averages, besides those with synthetic
        labels.
      images: task -> class -> number of training images, as far as known.

    Returns:
      JSON values: `model`, `datasets` (test set -> task -> metrics), `averages` (task and
      `overall` -> accuracy) and their `average_intervals`, `averaged_sets` (task -> test sets),
      `synthetic_labels`, `temperatures` (task -> T, empty without validation), `classes` and
      `training_images`.

    Raises:
      UserError: no test set, or two with one name.
    """
    names = [item.name for item in predictions]
    if not names or len(set(names)) != len(names):
        expected, fix = "at least one, with distinct names", "name each test set once"
        raise UserError("test sets", expected=expected, found=", ".join(names), fix=fix)
    temperatures = {}
    if validation is not None:
        for task in validation.tasks():
            temperatures[task] = calibration.fit_temperature(*validation.labelled(task))
    datasets = {
        item.name: {
            task: task_metrics(item, task, temperature=temperatures.get(task)) for task in item.tasks()
        }
        for item in predictions
    }
    accuracies = {
        name: {task: metrics["accuracy"] for task, metrics in tasks.items()}
        for name, tasks in datasets.items()
    }
    synthetic = {item.name: list(item.synthetic_labels) for item in predictions if item.synthetic_labels}
    excluded = intervals.excluded_tasks(synthetic, not_averaged or {})
    return {
        "schema": SCHEMA,
        "model": dict(model),
        "datasets": datasets,
        "averages": intervals.task_averages(accuracies, excluded),
        "average_intervals": {
            key: list(bounds) for key, bounds in intervals.of_averages(predictions, excluded).items()
        },
        "averaged_sets": intervals.averaged_sets(accuracies, excluded),
        "synthetic_labels": synthetic,
        "temperatures": temperatures,
        "classes": {task.name: list(task.classes) for task in TASKS.values()},
        coverage.KEY: dict(images),
    }


def write(
    directory: str | os.PathLike,
    predictions: Sequence[Predictions],
    *,
    model: Mapping[str, Any],
    validation: Predictions | None = None,
    features: Mapping[str, np.ndarray] | None = None,
    not_averaged: Mapping[str, Collection[str]] | None = None,
    images: coverage.TrainingImages = coverage.UNKNOWN,
) -> dict[str, Any]:
    """Writes `directory/eval` completely or not at all, replacing an earlier one.

    It holds `metrics.json` (see `summarise`), `predictions/{test set}.csv`,
    `confusion/{test set}_{task}.png`, `validation.csv` if there is a validation set, and
    `features/{test set}.npz` if there are features: the `rows` that `feature_rows` chose, and their
    `features`.

    Args:
      directory: the run's directory.
      features: test set of N examples -> (M, D) pooled features of the rows `feature_rows(N)`.
      predictions, model, validation, not_averaged, images: see `summarise`, whose result is returned.
    """
    summary = summarise(
        predictions, model=model, validation=validation, not_averaged=not_averaged, images=images
    )
    with files.atomic_folder(pathlib.Path(directory) / DIRECTORY, overwrite=True) as folder:
        for item in predictions:
            predictions_csv.save(item, folder / "predictions" / f"{item.name}.csv")
            for task, metrics in summary["datasets"][item.name].items():
                figure = plots.confusion_matrix(
                    metrics["confusion"],
                    coverage.marked_classes(images, task),
                    title=f"{task} on {item.name}",
                )
                plots.save_png(figure, folder / "confusion" / f"{item.name}_{task}.png")
        if validation is not None:
            predictions_csv.save(validation, folder / "validation.csv")
        sizes = {item.name: len(item.ids) for item in predictions}
        for name, values in (features or {}).items():
            _save_features(folder / "features" / f"{name}.npz", feature_rows(sizes[name]), values)
        text = json.dumps(summary, indent=1, allow_nan=False)
        (folder / "metrics.json").write_text(text + "\n", encoding="utf-8")
    return summary


def feature_rows(n: int) -> np.ndarray:
    """Returns the rows of at most `MAX_FEATURES` of n examples whose features are kept, ascending int64.

    They are evenly spaced, so that a table sorted by class still yields every class.
    """
    return np.unique(np.linspace(0, n - 1, min(n, MAX_FEATURES)).astype(np.int64))


def _save_features(path: pathlib.Path, rows: np.ndarray, features: np.ndarray) -> None:
    if features.shape[:1] != rows.shape:
        raise ValueError(f"{len(rows)} rows and features {features.shape}")
    path.parent.mkdir(exist_ok=True)
    np.savez(path, rows=rows, features=features.astype(np.float32))


def text(summary: Mapping[str, Any]) -> str:
    """Returns the table that is printed after an evaluation, in per cent.

    One row per test set and task, with the accuracy of always predicting the majority class, then
    the averages. A star marks metrics that are excluded from the averages; `coverage.MARK` marks tasks
    with classes that had no training image.
    """
    rows = []
    synthetic, images = summary["synthetic_labels"], images_of(summary)
    for name, tasks in summary["datasets"].items():
        for task, metrics in tasks.items():
            star = " *" if task in synthetic.get(name, ()) else ""
            shares = (metrics[key] for key in ("accuracy", "majority", "balanced_accuracy", "macro_f1"))
            shown = coverage.marked(images, task) + star
            rows.append((name, shown, f"{metrics['n']:,}", *map(percent, shares)))
    lines = [aligned([_HEADER, *rows])]
    averages = "   ".join(f"{task} {percent(value)}" for task, value in summary["averages"].items())
    lines.append(f"averages: {averages or 'none'}")
    if any(synthetic.values()):
        lines.append("* labels are a model's output: not in the averages")
    lines += [f"{coverage.MARK} {note}" for note in untrained_notes(summary)]
    return "\n".join(lines)


def images_of(summary: Mapping[str, Any]) -> coverage.TrainingImages:
    """Returns the training images per class of an evaluation; evaluations of older versions have none."""
    return coverage.from_json(summary.get(coverage.KEY))


def untrained_notes(summary: Mapping[str, Any]) -> list[str]:
    """Returns one line per task with classes without training images, and how many test images show them."""
    images, lines = images_of(summary), []
    for task in images:
        names = coverage.untrained(images, task)
        found = (tasks[task]["per_class"] for tasks in summary["datasets"].values() if task in tasks)
        shown = sum(classes[name]["n"] for classes in found for name in names)
        lines += [f"{note} ({shown:,} test images show them)" for note in coverage.notes(images, [task])]
    return lines
