"""The results of finished trials, and all of them collected in one JSON file."""

import datetime
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from softbio_jax import files
from softbio_jax.runs.config import RunConfig
from softbio_jax.thesis.study.study import Results, Study, Trial

SCHEMA = 1
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
    trials = [
        Trial(cell=cell, factor=factor, seed=seed)
        for cell in study.cells
        for factor in study.factors
        for seed in study.seeds
    ]
    found = {trial: read(folder_of(workdir, trial) / "result.json") for trial in trials}
    return {trial: values for trial, values in found.items() if values is not None}


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
    """Returns all results of a study, without images and paths, and facts about its encoder."""
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
        "machine": _machine(finished),
        "jobs": jobs,
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


def _identity(trial: Trial, config: RunConfig) -> dict[str, Any]:
    rate = config.optimizer.rates["heads"]
    return {"cell": trial.cell, "factor": trial.factor, "rate": rate, "seed": trial.seed}


def _machine(result: Mapping[str, Any]) -> str:
    if "device" in result and not result["device"].endswith("cpu"):
        return str(result["device"])
    return f"{os.cpu_count()} CPU cores"


def _today() -> str:
    return datetime.datetime.now(datetime.UTC).date().isoformat()
