"""A run directory, or a third party's predictions, as one object."""

import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from softbio_jax.errors import UserError
from softbio_jax.evaluation import evaluate, predictions_csv
from softbio_jax.evaluation.metrics import comparison
from softbio_jax.evaluation.predictions import Predictions, rows_text

TEST_SET_COLUMN = "test_set"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """What a report knows of one model.

    Args:
      name: how tables call it.
      path: the run's directory, None for a third party's predictions.
      summary: what `evaluate.summarise` returns.
      predictions: test set -> predictions.
      config: the resolved config, empty if the run has none.
      log: scalars over training, one mapping a logged step with the key `step`.
      info: `run.json`: versions, device, wall time, data, parameter counts, sampling.
    """

    name: str
    path: pathlib.Path | None
    summary: Mapping[str, Any]
    predictions: Mapping[str, Predictions]
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    log: Sequence[Mapping[str, Any]] = ()
    info: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def method(self) -> str:
        return str(self.summary["model"].get("method", ""))

    @property
    def tasks(self) -> list[str]:
        """The tasks that it was judged on."""
        return [task for task in self.summary["averages"] if task != "overall"]

    @property
    def external(self) -> bool:
        return self.path is None


def load_all(directories: Sequence[str | os.PathLike]) -> list[Run]:
    """Reads run directories, named by their own names as far as these tell them apart.

    Raises:
      UserError: no directory, one that was never evaluated, or a broken file in one.
    """
    if not directories:
        raise UserError("no run", expected="at least one run directory", fix="name one")
    paths = [pathlib.Path(directory).resolve() for directory in directories]
    if len(set(paths)) != len(paths):
        raise UserError(
            "the same run twice", found=", ".join(map(str, directories)), fix="name each run once"
        )
    bare = [path.name for path in paths]
    names = [path.name if bare.count(path.name) == 1 else f"{path.parent.name}/{path.name}" for path in paths]
    return [load(path, name=name) for path, name in zip(paths, names, strict=True)]


def load(path: pathlib.Path, *, name: str) -> Run:
    """Reads one run directory.

    Args:
      path: the directory that scripts/train.py wrote.
      name: how tables call it.

    Raises:
      UserError: it is not there, was never evaluated, or one of its files is broken.
    """
    if not path.is_dir():
        raise UserError(
            "no such run",
            where=str(path),
            expected="a run's folder",
            found="no such directory",
            fix="name the --workdir that scripts/train.py had",
        )
    metrics = path / evaluate.DIRECTORY / "metrics.json"
    if not metrics.is_file():
        raise UserError(
            "run without evaluation",
            where=str(path),
            expected=f"{evaluate.DIRECTORY}/metrics.json",
            found="no such file",
            fix="run scripts/evaluate.py --workdir=DIR first",
        )
    summary = _json(metrics)
    schema = summary.get("schema")
    if not isinstance(schema, int) or schema > evaluate.SCHEMA:
        raise UserError(
            "evaluation of another version",
            where=str(metrics),
            expected=f"schema {evaluate.SCHEMA} or below",
            found=str(schema),
            fix="run scripts/evaluate.py again",
        )
    predictions = {
        test_set: predictions_csv.load(
            metrics.parent / "predictions" / f"{test_set}.csv",
            synthetic_labels=summary["synthetic_labels"].get(test_set, ()),
        )
        for test_set in summary["datasets"]
    }
    if schema < evaluate.SCHEMA:  # the predictions hold all that newer figures need
        validation = metrics.parent / "validation.csv"
        summary = evaluate.summarise(
            list(predictions.values()),
            model=summary["model"],
            validation=predictions_csv.load(validation) if validation.exists() else None,
        )
    return Run(
        name=name,
        path=path,
        summary=summary,
        predictions=predictions,
        config=_json(path / "config.json") if (path / "config.json").exists() else {},
        log=_json_lines(path / "metrics.jsonl") if (path / "metrics.jsonl").exists() else (),
        info=_json(path / "run.json") if (path / "run.json").exists() else {},
    )


def third_parties(specs: Sequence[str], runs: Sequence[Run]) -> list[Run]:
    """Reads other models' predictions and judges them like runs.

    A table follows `predictions_csv`; its label columns may be left out. Each row goes to the
    test set that has its id, or that the column `test_set` names, and a test set must be
    covered whole. Several tables under one name are one model.

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
            raise UserError(
                "bad predictions",
                expected="NAME:FILE.csv",
                found=repr(spec),
                fix="write for instance --predictions=MiVOLO:mivolo.csv",
            )
        files.setdefault(name, []).append(file)
    found = []
    for name, paths in files.items():
        items = [item for path in paths for item in _third_party(path, name, references)]
        summary = evaluate.summarise(items, model={"method": name, "variant": "third party"})
        sets = {item.name: item for item in items}
        found.append(Run(name=name, path=None, summary=summary, predictions=sets))
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
            where = rows_text(rows, first_row=predictions_csv.FIRST_DATA_ROW)
            raise UserError(
                what,
                where=f"{file} {where}",
                expected=f"an id of one of {', '.join(references)}",
                found=repr(str(table.ids[rows[0]])),
                fix=fix,
            )
    return [
        comparison.labelled_like(table.take(rows), references[key])
        for key, rows in members.items()
        if rows.any()
    ]


def _json(path: pathlib.Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            "cannot read",
            where=str(path),
            expected="a JSON object",
            found=str(error),
            fix="evaluate the run again with scripts/evaluate.py",
        ) from None
    if not isinstance(found, dict):
        raise UserError(
            "cannot read",
            where=str(path),
            expected="a JSON object",
            found=type(found).__name__,
            fix="evaluate the run again with scripts/evaluate.py",
        )
    return found


def _json_lines(path: pathlib.Path) -> list[dict[str, Any]]:
    lines = path.read_text(encoding="utf-8").splitlines()
    found = []
    for number, line in enumerate(lines, start=1):
        try:
            found.append(json.loads(line))
        except ValueError as error:
            if number == len(lines):
                continue  # a run that was killed, or is still writing
            raise UserError(
                "cannot read",
                where=f"{path} line {number}",
                expected="a JSON object",
                found=str(error),
                fix="evaluate the run again with scripts/evaluate.py",
            ) from None
    return found
