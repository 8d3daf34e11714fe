"""What a finished run leaves for the study, and the study's collected figures."""

import datetime
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from softbio_jax import files
from softbio_jax.runs.config import RunConfig
from softbio_jax.thesis.study.conduct import Results, chosen_runs, ready
from softbio_jax.thesis.study.study import Run, Study

SCHEMA = 1
_FIGURES = ("n", "accuracy", "balanced_accuracy", "macro_f1", "majority")


def folder_of(workdir: pathlib.Path, run: Run) -> pathlib.Path:
    """Returns a run's own folder."""
    return workdir / "runs" / run.name


def write(path: pathlib.Path, values: Mapping[str, Any]) -> None:
    """Writes a JSON file that appears only once it is whole."""
    files.write_text(path, json.dumps(values, indent=1) + "\n")


def read(path: pathlib.Path) -> dict[str, Any] | None:
    """Returns a JSON file's object, None where there is none or it is damaged."""
    try:
        found = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def read_all(study: Study, workdir: pathlib.Path) -> dict[Run, dict[str, Any]]:
    """Returns the finished runs of a study."""
    found = {}
    for cell in study.cells:
        for factor in study.factors:
            for seed in study.seeds:
                run = Run(cell=cell, factor=factor, seed=seed)
                values = read(folder_of(workdir, run) / "result.json")
                if values is not None:
                    found[run] = values
    return found


def of_run(run: Run, config: RunConfig, folder: pathlib.Path, metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a finished run's figures: of its tests, its best validation, its size and time.

    Args:
      run: which.
      config: its configuration.
      folder: its own folder.
      metrics: what its eval/metrics.json holds.
    """
    about = read(folder / "run.json") or {}
    best = best_validation(folder)
    return _identity(run, config) | {
        "validation_loss": best["val/loss"],
        "validation": {name: value for name, value in best.items() if name.startswith("val/")},
        "best_step": best["step"],
        "datasets": {
            name: {
                task: {key: figures[key] for key in _FIGURES}
                | {"accuracy_interval": figures["intervals"]["accuracy"]}
                for task, figures in tasks.items()
            }
            for name, tasks in metrics["datasets"].items()
        },
        "averages": metrics["averages"],
        "average_intervals": metrics["average_intervals"],
        "trainable_params": metrics["model"]["trainable_params"],
        "total_params": metrics["model"]["total_params"],
        "train_seconds": about["wall_time_s"],
        "device": about["device"],
        "versions": about["versions"],
        "date": _today(),
    }


def of_failed(run: Run, config: RunConfig, told: str) -> dict[str, Any]:
    """Returns what is kept of a run that diverged: it is counted, and never chosen."""
    return _identity(run, config) | {"validation_loss": None, "failed": told, "date": _today()}


def best_validation(folder: pathlib.Path) -> dict[str, Any]:
    """Returns the line of metrics.jsonl with the lowest validation loss."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    judged = [line for line in lines if line.get("val/loss") is not None]
    return min(judged, key=lambda line: line["val/loss"])


def collect(study: Study, done: Results, *, tower: Mapping[str, Any], jobs: int) -> dict[str, Any]:
    """Returns the study's figures: no pictures, no paths.

    Args:
      study: which.
      done: its finished runs.
      tower: what is known of the tower's pretraining.
      jobs: how many runs were done at a time.
    """
    chosen = {run for cell in study.cells for run in chosen_runs(study, cell, done)}
    runs = [
        {key: value for key, value in done[run].items() if key not in ("versions", "device")}
        | {"chosen": run in chosen}
        for run in sorted(done, key=lambda run: (list(study.cells).index(run.cell), run))
    ]
    last: Mapping[str, Any] = next((done[run] for run in done if "versions" in done[run]), {"versions": {}})
    return {
        "schema": SCHEMA,
        "complete": not ready(study, done),
        "date": max((run["date"] for run in runs), default=_today()),
        "machine": _machine(last),
        "jobs": jobs,
        "versions": last["versions"],
        "seeds": list(study.seeds),
        "factors": list(study.factors),
        "tower": dict(tower),
        "cells": {name: _about(cell) for name, cell in study.cells.items()},
        "runs": runs,
    }


def _about(cell: Mapping[str, Any]) -> dict[str, Any]:
    train = cell["train"]
    return {
        "tasks": cell["tasks"],
        "method": cell["method"],
        "variant": cell["model"]["variant"],
        "steps": train["steps"],
        "batch_size": train["batch_size"],
    }


def _identity(run: Run, config: RunConfig) -> dict[str, Any]:
    rate = config.optimizer.rates["heads"]
    return {"cell": run.cell, "factor": run.factor, "rate": rate, "seed": run.seed}


def _machine(result: Mapping[str, Any]) -> str:
    if "device" in result and not result["device"].endswith("cpu"):
        return str(result["device"])
    return f"{os.cpu_count()} CPU cores"


def _today() -> str:
    return datetime.datetime.now(datetime.UTC).date().isoformat()
