"""The results of finished trials, and all of them collected in one JSON file."""

import dataclasses
import datetime
import functools
import hashlib
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from softbio_jax import files
from softbio_jax.data.partial.config import LabelConfig
from softbio_jax.errors import UserError
from softbio_jax.losses.distillation import DistillConfig
from softbio_jax.runs.config import RunConfig
from softbio_jax.thesis.study.study import Results, Study, Trial

SCHEMA = 1
# Fields that are younger than records, with the values that do what was done without them.
_LATER: dict[str, Any] = {
    "distill": dataclasses.asdict(DistillConfig()),
    "model.blocks": 0,
    "model.flip_average": False,
    "model.head.age": "classes",
    "data.labels": dataclasses.asdict(LabelConfig()),
    "optimizer.l2": None,
    "optimizer.iterations": None,
    "optimizer.refit": False,
}
_OF_AGE = ("expected_age_mae",)  # years
_METRICS = ("n", "accuracy", "balanced_accuracy", "macro_f1", "majority")


def folder_of(workdir: pathlib.Path, trial: Trial) -> pathlib.Path:
    """Returns a trial's run directory."""
    return workdir / "runs" / trial.name


def write(path: pathlib.Path, values: Mapping[str, Any]) -> None:
    """Writes a JSON file that appears only once complete."""
    files.write_text(path, json.dumps(values, indent=1) + "\n")


def read(path: pathlib.Path) -> dict[str, Any] | None:
    """Returns the object in a JSON file, None if it is missing or damaged."""
    try:
        found = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def read_all(study: Study, workdir: pathlib.Path) -> dict[Trial, dict[str, Any]]:
    """Returns the results of a study's finished trials."""
    found = {trial: read(folder_of(workdir, trial) / "result.json") for trial in study.trials()}
    return {trial: values for trial, values in found.items() if values is not None}


def record_of(records: pathlib.Path, trial: Trial) -> pathlib.Path:
    """Returns where a trial's record is in a folder of records."""
    return records / f"{trial.name.replace('/', '-')}.json"


def read_records(study: Study, records: pathlib.Path, *, encoder: str) -> dict[Trial, dict[str, Any]]:
    """Returns the results of the trials of a study that have a record.

    Raises:
      UserError: a record of another configuration.
    """
    found = {}
    for trial in study.trials():
        path = record_of(records, trial)
        values = read(path)
        if values is None:
            continue
        config = study.config(trial, encoder=encoder, workdir=records)
        if values.get("config") != (digest := config_digest(config)):
            raise UserError(
                "record of another configuration",
                where=str(path),
                expected=f"config {digest}",
                found=str(values.get("config")),
                fix="name another folder of records, or restore the study's configuration",
            )
        found[trial] = values
    return found


def of_trial(
    trial: Trial, config: RunConfig, folder: pathlib.Path, metrics: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns the result of a finished trial: its tests (eval/metrics.json), validation, size and time."""
    about, best = read(folder / "run.json") or {}, best_validation(folder)
    return _identity(trial, config) | {
        "validation_loss": best["val/loss"],
        "validation": {name: value for name, value in best.items() if name.startswith("val/")},
        "best_step": best["step"],
        "datasets": {
            name: {
                task: {key: values[key] for key in _METRICS}
                | {"accuracy_interval": values["intervals"]["accuracy"]}
                | {key: values[key] for key in _OF_AGE if key in values}
                for task, values in tasks.items()
            }
            for name, tasks in metrics["datasets"].items()
        },
        "averages": metrics["averages"],
        "average_intervals": metrics["average_intervals"],
        **{name: metrics["model"][name] for name in ("trainable_params", "total_params")},
        "train_seconds": about["wall_time_s"],
        "device": about["device"],
        "versions": about["versions"],
        "date": _today(),
        "predictions": predictions_digest(folder),
    }


def of_diverged(trial: Trial, config: RunConfig, message: str) -> dict[str, Any]:
    """Returns the result of a trial that diverged: it is counted, and never chosen."""
    return _identity(trial, config) | {"validation_loss": None, "failed": message, "date": _today()}


def best_validation(folder: pathlib.Path) -> dict[str, Any]:
    """Returns the line of metrics.jsonl with the lowest validation loss."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    validations = [line for line in lines if line.get("val/loss") is not None]
    return min(validations, key=lambda line: line["val/loss"])


def collect(study: Study, done: Results, *, encoder: Mapping[str, Any], jobs: int) -> dict[str, Any]:
    """Returns all results of a study, without images and paths, and facts about its encoder.

    Args:
      study: the study.
      done: the results of its finished trials.
      encoder: facts about its pretraining, if it had one.
      jobs: trials at a time, 0 where they are not known, as of records.
    """
    chosen = {trial for cell in study.cells for trial in study.chosen(cell, done)}
    order = list(study.cells)
    runs = [
        {key: value for key, value in done[trial].items() if key not in ("versions", "device")}
        | {"chosen": trial in chosen}
        for trial in sorted(done, key=lambda trial: (order.index(trial.cell), trial))
    ]
    finished: Mapping[str, Any] = next((r for r in done.values() if "versions" in r), {"versions": {}})
    return {
        "schema": SCHEMA,
        "complete": not study.ready(done),
        "date": max((run["date"] for run in runs), default=_today()),
        "machine": _machine(finished) if jobs else str(finished.get("device", "?")),
        "jobs": jobs,
        "size": study.size(),
        "versions": finished["versions"],
        "seeds": list(study.seeds),
        "factors": list(study.factors),
        "tower": dict(encoder),
        "cells": {
            name: {
                "tasks": cell["tasks"],
                "method": cell["method"],
                "variant": cell["model"]["variant"],
                "steps": cell["train"]["steps"],
                "batch_size": cell["train"]["batch_size"],
            }
            for name, cell in study.cells.items()
        },
        "runs": runs,
    }


def config_digest(config: RunConfig) -> str:
    """Returns 16 hexadecimal digits of what a trial computes: its configuration without folders.

    What later versions added does not count where it is off, so that older records keep their digests.
    """
    values = dataclasses.asdict(config)
    for path, off in _LATER.items():
        *groups, field = path.split(".")
        group = functools.reduce(dict.__getitem__, groups, values)
        if group[field] == off:
            del group[field]
    if "distill" in values:
        values["distill"]["teacher"] = pathlib.Path(config.distill.teacher).name
    values["data"]["root"] = values["train"]["compile_cache"] = values["train"]["cache_dir"] = ""
    values["model"]["pretrained"] = pathlib.Path(config.model.pretrained).name
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def predictions_digest(folder: pathlib.Path) -> str:
    """Returns 16 hexadecimal digits of a trial's predictions of its test sets."""
    digest = hashlib.sha256()
    for path in sorted((folder / "eval" / "predictions").glob("*.csv")):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _identity(trial: Trial, config: RunConfig) -> dict[str, Any]:
    rate = config.optimizer.rates["heads"]
    about = {"cell": trial.cell, "factor": trial.factor, "rate": rate, "seed": trial.seed}
    return about | {"share": trial.share, "config": config_digest(config)}


def _machine(result: Mapping[str, Any]) -> str:
    if "device" in result and not result["device"].endswith("cpu"):
        return str(result["device"])
    return f"{os.cpu_count()} CPU cores"


def _today() -> str:
    return datetime.datetime.now(datetime.UTC).date().isoformat()
