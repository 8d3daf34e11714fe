"""The results of a run directory, or of a third party's predictions, as one object."""

import dataclasses
import functools
import json
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from softbio_jax import coverage
from softbio_jax.errors import UserError
from softbio_jax.evaluation import evaluate, predictions_csv
from softbio_jax.evaluation.metrics import comparison, intervals
from softbio_jax.evaluation.predictions import Predictions, rows_text

TEST_SET_COLUMN = "test_set"
ROBUSTNESS = ("robustness", "robustness.json")  # folder and file of a measurement
ROBUSTNESS_SCHEMA = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunResults:
    """What a report knows of one model.

    Args:
      path: the run's directory, None for a third party's predictions.
      summary: what `evaluate.summarise` returns.
      predictions: test set -> predictions.
      config: the resolved config, empty if the run has none.
      log: scalars over training, one mapping per logged step with the key `step`.
      info: `run.json`: versions, device, wall time, data, parameter counts, sampling.
      robustness: test set -> task -> metrics under corruptions, empty if they were not measured.
    """

    name: str
    path: pathlib.Path | None
    summary: Mapping[str, Any]
    predictions: Mapping[str, Predictions]
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    log: Sequence[Mapping[str, Any]] = ()
    info: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    robustness: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def validation(self) -> Predictions | None:
        """The predictions of the validation rows, None where there are none."""
        path = None if self.path is None else self.path / evaluate.DIRECTORY / "validation.csv"
        return predictions_csv.load(path) if path is not None and path.is_file() else None

    @property
    def method(self) -> str:
        return str(self.summary["model"].get("method", ""))

    @property
    def tasks(self) -> list[str]:
        """The tasks with an average."""
        return [task for task in self.summary["averages"] if task != "overall"]

    @property
    def images(self) -> coverage.TrainingImages:
        """The training images per class, see `coverage`."""
        return evaluate.images_of(self.summary)

    @property
    def external(self) -> bool:
        return self.path is None

    def metrics(self) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
        """Yields every test set and task with its metrics."""
        for test_set, tasks in self.summary["datasets"].items():
            for task, metrics in tasks.items():
                yield test_set, task, metrics

    def find(self, test_set: str, task: str) -> Mapping[str, Any] | None:
        """Returns the metrics of one test set and task, None if it has none."""
        return self.summary["datasets"].get(test_set, {}).get(task)


def load_all(directories: Sequence[str | os.PathLike]) -> list[RunResults]:
    """Reads run directories, named after their folders, with the parent's name where two are equal.

    Raises:
      UserError: no directory, one that was never evaluated, or a broken file in one.
    """
    if not directories:
        raise UserError("no run", expected="at least one run directory", fix="name one")
    paths = [pathlib.Path(directory).resolve() for directory in directories]
    if len(set(paths)) != len(paths):
        found = ", ".join(map(str, directories))
        raise UserError("the same run twice", found=found, fix="name each run once")
    bare = [path.name for path in paths]
    names = [path.name if bare.count(path.name) == 1 else f"{path.parent.name}/{path.name}" for path in paths]
    return [load(path, name=name) for path, name in zip(paths, names, strict=True)]


def load(path: pathlib.Path, *, name: str) -> RunResults:
    """Reads the run directory `path`, to be called `name` in tables.

    Raises:
      UserError: it does not exist, was never evaluated, or one of its files is broken.
    """
    if not path.is_dir():
        fix = "name the --workdir of scripts/train.py"
        found = "no such directory"
        raise UserError("no such run", where=str(path), expected="a run directory", found=found, fix=fix)
    file = path / evaluate.DIRECTORY / "metrics.json"
    if not file.is_file():
        expected, fix = f"{evaluate.DIRECTORY}/metrics.json", "run scripts/evaluate.py --workdir=DIR first"
        what, found = "run without evaluation", "no such file"
        raise UserError(what, where=str(path), expected=expected, found=found, fix=fix)
    summary = _json(file)
    schema = summary.get("schema")
    if not isinstance(schema, int) or schema > evaluate.SCHEMA:
        expected, fix = f"schema {evaluate.SCHEMA} or below", "run scripts/evaluate.py again"
        what = "evaluation of another version"
        raise UserError(what, where=str(file), expected=expected, found=str(schema), fix=fix)
    predictions = {
        test_set: predictions_csv.load(
            file.parent / "predictions" / f"{test_set}.csv",
            synthetic_labels=summary["synthetic_labels"].get(test_set, ()),
        )
        for test_set in summary["datasets"]
    }
    if schema < evaluate.SCHEMA:  # the predictions suffice for the metrics that are missing
        validation = file.parent / "validation.csv"
        summary = evaluate.summarise(
            list(predictions.values()),
            model=summary["model"],
            validation=predictions_csv.load(validation) if validation.exists() else None,
            not_averaged=intervals.excluded_by(summary),
            images=evaluate.images_of(summary),
        )
    config, info, log = (path / name for name in ("config.json", "run.json", "metrics.jsonl"))
    return RunResults(
        name=name,
        path=path,
        summary=summary,
        predictions=predictions,
        config=_json(config) if config.exists() else {},
        log=_json_lines(log) if log.exists() else (),
        info=_json(info) if info.exists() else {},
        robustness=_robustness(path.joinpath(*ROBUSTNESS)),
    )


def _robustness(path: pathlib.Path) -> Mapping[str, Any]:
    found = _json(path) if path.exists() else {}
    same = found.get("schema") == ROBUSTNESS_SCHEMA
    return found["datasets"] if same else {}


def third_parties(specs: Sequence[str], runs: Sequence[RunResults]) -> list[RunResults]:
    """Reads other models' predictions and evaluates them like runs.

    A table follows `predictions_csv`; its label columns are optional. Each row goes to the test set
    that has its id, or that the column `test_set` names, and every example of a test set needs a
    row. Several tables under one name are one model.

    Args:
      specs: NAME:FILE.csv each.
      runs: the runs whose test sets give ids and labels.

    Raises:
      UserError: a spec or table that is broken, or ids that are missing, unknown or ambiguous.
    """
    references: dict[str, Predictions] = {}
    for run in runs:
        references = {**run.predictions, **references}
    files: dict[str, list[str]] = {}
    for spec in specs:
        name, separator, file = spec.partition(":")
        if not (name and separator and file):
            expected, fix = "NAME:FILE.csv", "write for instance --predictions=MiVOLO:mivolo.csv"
            raise UserError("bad predictions", expected=expected, found=repr(spec), fix=fix)
        files.setdefault(name, []).append(file)
    found = []
    excluded = intervals.excluded_tasks(*(intervals.excluded_by(run.summary) for run in runs))
    for name, paths in files.items():
        items = [item for path in paths for item in _third_party(path, name, references)]
        model = {"method": name, "variant": "third party"}
        summary = evaluate.summarise(items, model=model, not_averaged=excluded)
        sets = {item.name: item for item in items}
        found.append(RunResults(name=name, path=None, summary=summary, predictions=sets))
    return found


def _third_party(file: str, name: str, references: Mapping[str, Predictions]) -> list[Predictions]:
    table = predictions_csv.load(file, name=name, labels="optional")
    members = {key: np.isin(table.ids, item.ids) for key, item in references.items()}
    if TEST_SET_COLUMN in table.audit:
        named = table.audit[TEST_SET_COLUMN]
        members = {key: rows & (named == key) for key, rows in members.items()}
    homes = np.sum(list(members.values()), axis=0)
    for bad, what, fix in (
        (homes == 0, "unknown id", "use the ids of the runs' eval/predictions tables"),
        (homes > 1, "id of several test sets", f"name the set in a column {TEST_SET_COLUMN}"),
    ):
        rows = np.flatnonzero(bad)
        if len(rows):
            where = f"{file} {rows_text(rows, first_row=predictions_csv.FIRST_DATA_ROW)}"
            expected, found = f"an id of one of {', '.join(references)}", repr(str(table.ids[rows[0]]))
            raise UserError(what, where=where, expected=expected, found=found, fix=fix)
    taken = {key: table.take(rows) for key, rows in members.items() if rows.any()}
    return [comparison.labelled_like(item, references[key]) for key, item in taken.items()]


def _json(path: pathlib.Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _unreadable(str(path), str(error)) from None
    if not isinstance(found, dict):
        raise _unreadable(str(path), type(found).__name__)
    return found


def _json_lines(path: pathlib.Path) -> list[dict[str, Any]]:
    lines = path.read_text(encoding="utf-8").splitlines()
    found = []
    for number, line in enumerate(lines, start=1):
        try:
            found.append(json.loads(line))
        except ValueError as error:
            if number < len(lines):  # the last line may be cut: a killed run, or one still writing
                raise _unreadable(f"{path} line {number}", str(error)) from None
    return found


def _unreadable(where: str, found: str) -> UserError:
    fix = "evaluate the run again with scripts/evaluate.py"
    return UserError("cannot read", where=where, expected="a JSON object", found=found, fix=fix)
