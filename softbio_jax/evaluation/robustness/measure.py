"""Accuracy of a run on its corrupted test sets, and the mean corruption error."""

import contextlib
import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath

from softbio_jax import files
from softbio_jax.console import QUIET, Console
from softbio_jax.data.loading import PADDING
from softbio_jax.data.sources import PreparedDataset
from softbio_jax.errors import UserError
from softbio_jax.evaluation.metrics import intervals
from softbio_jax.evaluation.report.runs import ROBUSTNESS, ROBUSTNESS_SCHEMA
from softbio_jax.evaluation.robustness import corruptions, page
from softbio_jax.runs import directory, parallel
from softbio_jax.runs.data import check_tests, eval_batches, open_all
from softbio_jax.runs.restore import restore_run
from softbio_jax.runs.session import Session
from softbio_jax.tasks import MISSING

DIRECTORY, RESULTS = ROBUSTNESS
SEED = 2025


def measure_run(
    workdir: epath.PathLike,
    *,
    out: epath.PathLike | None = None,
    data_root: str | None = None,
    tests: Sequence[str] = (),
    baseline: epath.PathLike | None = None,
    console: Console | None = None,
) -> dict[str, Any]:
    """Measures a run's test sets under every corruption and writes out/robustness.

    Args:
      workdir: the run directory.
      out: where robustness/ is written; None: the run directory.
      data_root, tests: see `evaluate.evaluate_run`.
      baseline: a run that was measured before, whose errors are the denominators of `relative_to`.
      console: prints progress on the first process; None: to stdout.

    Returns:
      The contents of robustness.json, see `summarise`.

    Raises:
      UserError: no run, no test set, or a baseline without results on the same test sets.
    """
    config = directory.read_config(workdir)
    chosen = tuple(tests) or config.data.test
    if not chosen:
        fix = "--test=NAME/SPLIT with a set prepared by scripts/prepare_data.py"
        raise UserError(
            "the run has no test set", where=str(workdir), expected="data.test", found="none", fix=fix
        )
    root = data_root or config.data.root
    data = open_all(dataclasses.replace(config.data, root=root, test=chosen))  # before anything compiles
    if tests:
        check_tests(data, tasks=config.tasks)
    reference = None if baseline is None else read(baseline)
    folder = epath.Path(out or workdir)
    with contextlib.ExitStack() as held:
        held.enter_context(directory.hold(str(files.absolute(folder))))
        session = restore_run(workdir, data_root=data_root)
        if reference is not None:
            for item in data.test:
                check_reference(reference, item, config.tasks)
        console = console or Console(active=jax.process_index() == 0)
        right = {item.name: predict(session, item, console=console) for item in data.test}
        found = summarise(right, model=session.run.summary(), reference=reference)
        if jax.process_index() == 0:
            with files.staged(folder, name=DIRECTORY, last=RESULTS) as place:
                write(place, found, name=epath.Path(files.absolute(workdir)).name)
            console.say(page.text(found))
            console.say(f"robustness: {folder / DIRECTORY / 'robustness.html'}")
    return found


def predict(session: Session, dataset: PreparedDataset, *, console: Console = QUIET) -> dict[str, np.ndarray]:
    """Returns which answers are right under every condition: task -> (K, n) bool, for n labelled examples.

    The first of the K conditions is without corruption; the others are those of `conditions`. Every
    image is read once and corrupted on the device.
    """
    config = session.run.config
    batches = eval_batches(
        dataset,
        image_size=session.run.image_size,
        batch_size=config.train.eval_batch_size,
        tasks=config.tasks,
    )
    # Made by jit, so that it is on every device of every process.
    key = jax.jit(lambda: jax.random.key(SEED), out_shardings=parallel.replicated(session.mesh))()
    size = len(dataset)
    answers = {task: np.zeros((1 + len(conditions()), size), np.int16) for task in config.tasks}
    labels = {task: np.full(size, MISSING, np.int32) for task in config.tasks}
    meter = console.meter(f"{dataset.name}, corrupted", size)
    for batch in batches:
        placed = parallel.to_global(batch, session.mesh)
        outputs = [session.forward(placed)]
        for name, strength in conditions():
            changed = corruptions.corrupt(
                placed["image"], placed["example"], np.int32(strength), key, name=name
            )
            outputs.append(session.forward({**placed, "image": changed}))
        for number, out in enumerate(outputs):
            known = {name: value for name, value in out.items() if name != "feature"}
            host = jax.device_get(known)
            rows = host["example"] != PADDING
            examples = host["example"][rows]
            for task in config.tasks:
                answers[task][number, examples] = host[f"logits/{task}"][rows].argmax(axis=1)
                labels[task][examples] = host[f"labels/{task}"][rows]
        console.check()
        meter.add(int(rows.sum()))
    return {
        task: answers[task][:, labels[task] != MISSING] == labels[task][labels[task] != MISSING]
        for task in config.tasks
        if (labels[task] != MISSING).any()
    }


def conditions() -> list[tuple[str, int]]:
    """Returns every corruption at every strength."""
    return [(name, 1 + step) for name in corruptions.CORRUPTIONS for step in range(corruptions.STRENGTHS)]


def summarise(
    right: Mapping[str, Mapping[str, np.ndarray]],
    *,
    model: Mapping[str, Any],
    reference: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Returns accuracies under every condition and the mean corruption errors, as JSON values.

    The mean corruption error is the mean over corruptions of the mean error over strengths; with a
    reference, each corruption's error is divided by the reference's first. `added_error` is the mean
    corruption error minus the error without corruption.

    Args:
      right: test set -> task -> (K, n), what `predict` returns.
      model: facts on the run.
      reference: an earlier result, whose test sets include these.

    Source: Hendrycks and Dietterich, ICLR 2019, section 4, where the reference is AlexNet.
    """
    datasets: dict[str, dict[str, Any]] = {}
    for name, tasks in right.items():
        for task, values in tasks.items():
            wrong = 1 - values[1:].astype(np.float64)  # every corruption has as many strengths
            rows = iter(values[1:])
            found = {
                "n": values.shape[1],
                "clean": _share(values[0]),
                "corruptions": {
                    kind: [_share(next(rows)) for _ in range(corruptions.STRENGTHS)]
                    for kind in corruptions.CORRUPTIONS
                },
                "mean_corruption_error": float(wrong.mean()),
                "interval": list(intervals.of_means(wrong.mean(axis=0)[:, None])[0]),
            }
            found["added_error"] = found["mean_corruption_error"] - (1 - found["clean"]["accuracy"])
            if reference is not None:
                found["relative_to"] = _relative(found, reference["datasets"][name][task])
            datasets.setdefault(name, {})[task] = found
    return {
        "schema": ROBUSTNESS_SCHEMA,
        "model": dict(model),
        "reference": None if reference is None else reference["name"],
        "datasets": datasets,
    }


def read(workdir: epath.PathLike) -> dict[str, Any]:
    """Returns the contents of robustness.json of a run that was measured, with the run's `name`.

    Raises:
      UserError: the run was not measured, or by another version.
    """
    path = epath.Path(workdir) / DIRECTORY / RESULTS
    fix = f"run scripts/evaluate.py --workdir={workdir} --robustness first"
    if not path.exists():
        raise UserError(
            "run without robustness", where=str(workdir), expected=str(path), found="no such file", fix=fix
        )
    found = json.loads(path.read_text())
    if found.get("schema") != ROBUSTNESS_SCHEMA:
        expected = f"schema {ROBUSTNESS_SCHEMA}"
        raise UserError(
            "robustness of another version",
            where=str(path),
            expected=expected,
            found=str(found.get("schema")),
            fix=fix,
        )
    return found | {"name": epath.Path(files.absolute(workdir)).name}


def check_reference(reference: Mapping[str, Any], dataset: PreparedDataset, tasks: Sequence[str]) -> None:
    """Checks that an earlier result has a test set and those of the tasks that it has labels of.

    Raises:
      UserError: it lacks one.
    """
    expected = [task for task in tasks if np.any(dataset.labels.get(task, MISSING) != MISSING)]
    found = reference["datasets"].get(dataset.name, {})
    if not set(expected) <= set(found):
        raise UserError(
            "the baseline was not measured on a test set",
            where=f"--baseline {reference['name']}",
            expected=f"{dataset.name}: {', '.join(expected)}",
            found=", ".join(found) or "none",
            fix="measure it on the same test sets with --robustness, or name a run with the same tasks",
        )


def write(directory: Any, found: Mapping[str, Any], *, name: str) -> None:
    """Writes directory/robustness completely or not at all: robustness.json and the page."""
    with files.atomic_folder(epath.Path(directory) / DIRECTORY, overwrite=True) as folder:
        page.write(found, folder, name=name)
        text = json.dumps(found, indent=1, allow_nan=False) + "\n"
        (folder / RESULTS).write_text(text, encoding="utf-8")


def _share(right: np.ndarray) -> dict[str, Any]:
    hits, n = int(right.sum()), len(right)
    return {"accuracy": hits / n, "interval": list(intervals.wilson(hits, n))}


def _relative(found: Mapping[str, Any], reference: Mapping[str, Any]) -> float | None:
    """Returns the mean over corruptions of summed errors over those of the reference, None without such."""
    ratios = []
    for kind, rows in found["corruptions"].items():
        error, other = (
            sum(1 - row["accuracy"] for row in side) for side in (rows, reference["corruptions"][kind])
        )
        if not other:
            return None
        ratios.append(error / other)
    return float(np.mean(ratios))
