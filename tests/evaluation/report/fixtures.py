"""Run directories as scripts/train.py and scripts/evaluate.py leave them, made in a second."""

import json
import pathlib
from collections.abc import Sequence

import numpy as np

from softbio_jax.evaluation import evaluate
from tests.evaluation.fixtures import random_predictions

SETS = {"fairface": ("age", "gender"), "raf_db": ("emotion",), "vggface2": ("age", "gender")}


def write_run(
    path: pathlib.Path,
    *,
    method: str = "lora",
    tasks: Sequence[str] = ("age", "gender", "emotion"),
    seed: int = 0,
    bare: bool = False,
) -> pathlib.Path:
    """Writes a run; `bare` leaves only what evaluation writes without validation or features."""
    predictions = [
        random_predictions(
            name,
            tasks=[task for task in known if task in tasks],
            n=40,
            seed=seed,
            synthetic_labels=("age",) if name == "vggface2" and "age" in tasks else (),
        )
        for name, known in SETS.items()
        if set(known) & set(tasks)
    ]
    rng = np.random.default_rng(seed)
    evaluate.write(
        path,
        predictions,
        model={"variant": "tiny", "method": method, "trainable_params": 1000, "total_params": 50_000},
        validation=None if bare else random_predictions("validation", tasks=tasks, n=60),
        features=None if bare else {"fairface": rng.normal(size=(40, 8))},
    )
    if bare:
        return path
    config = {"seed": seed, "tasks": list(tasks), "method": {"name": method, "rank": 4}}
    config["model"] = {"variant": "PE-Core-T16-384", "image_size": 0}
    config["data"] = {"test": [f"{item.name}/test" for item in predictions]}
    (path / "config.json").write_text(json.dumps(config))
    lines = [
        {
            "step": step,
            **{f"train/loss/{task}": 2 / step for task in tasks},
            "train/loss": 6 / step,
            **{f"train/log_var/{task}": -step / 100 for task in tasks},
            **{f"train/weight/{task}": 1 + step / 80 for task in tasks},
        }
        for step in (20, 40, 60)
    ]
    lines.append({"step": 60, "val/loss": 1.0, **{f"val/{task}/accuracy": 0.5 for task in tasks}})
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    info = {
        "command": "python scripts/train.py --config=configs/demo.py --workdir=runs/demo",
        "versions": {"jax": "0.10.2"},
        "device": "1 x cpu",
        "wall_time_s": 125.0,
        "throughput": {"64": 250.0},
        "inference": {"throughput": {"1": 80.0, "32": 410.0}},
        "params": {"groups": {"frozen": 49_000, "heads": 1000}, "total": 50_000},
        "data": {
            "train/fairface/train": {
                "n": 100,
                "fingerprint": "0123456789abcdef0123",
                "labels": {"age": 90, "gender": 100, "emotion": 0},
            }
        },
        "sampling": {"gender": {"raw": [30, 70], "drawn": [50, 50]}},
    }
    (path / "run.json").write_text(json.dumps(info))
    return path
