"""A study on drawn faces that takes seconds, and made-up results."""

import pathlib
import runpy

from softbio_jax.thesis.study.study import Trial, study_from
from tests.runs.tiny import changed, config_on

ROOT = pathlib.Path(__file__).resolve().parents[2]


def get_config(arguments=""):
    """The study of configs/small_reproduction.py as a nested dict."""
    path = ROOT / "configs" / "small_reproduction.py"
    return runpy.run_path(str(path))["get_config"](arguments).to_dict()


def values_on(data_root):
    """Two cells, two factors, two seeds: six trials of four steps, and an encoder made in three."""
    run = changed(
        config_on(data_root), train__steps=4, train__eval_every=2, train__checkpoint_every=0, train__keep=1
    )
    probe = changed(run, method={"name": "lp"}, train__cache_features=True)
    pretrain = get_config()["pretrain"]
    return {
        "data_root": str(data_root),
        "seeds": (0, 1),
        "factors": (0.5, 1.0),
        "cells": {"lora": run, "lp": probe},
        # Drawn faces have no audit column: every id is a class.
        "pretrain": pretrain
        | {
            "variant": "tiny-test",
            "data": "synthetic_fairface/train",
            "column": "id",
            "components": 8,
            "steps": 3,
            "batch_size": 8,
        },
    }


def study_on(data_root):
    return study_from(values_on(data_root))


def result(trial: Trial, *, loss=1.0, emotion=0.5, age=0.3, gender=0.7):
    """A finished trial's result, made up."""
    tasks = {"emotion": emotion, "age": age, "gender": gender}
    averages = tasks | {"overall": sum(tasks.values()) / 3}

    def metrics(value):
        return {
            "n": 100,
            "accuracy": value,
            "balanced_accuracy": value - 0.1,
            "macro_f1": value - 0.2,
            "majority": 0.25,
            "accuracy_interval": [value - 0.05, value + 0.05],
        }

    return {
        "cell": trial.cell,
        "factor": trial.factor,
        "rate": 1e-2 * trial.factor,
        "seed": trial.seed,
        "validation_loss": loss,
        "validation": {"val/loss": loss},
        "best_step": 4,
        "datasets": {
            "faces": {task: metrics(tasks[task]) for task in ("age", "gender")},
            "expressions": {"emotion": metrics(emotion)},
        },
        "averages": averages,
        "average_intervals": {task: [v - 0.04, v + 0.04] for task, v in averages.items()},
        "trainable_params": 1234,
        "total_params": 12345,
        "train_seconds": 10.0,
        "device": "1 x cpu",
        "versions": {"jax": "0.10.2"},
        "date": "2026-11-22",
    }
