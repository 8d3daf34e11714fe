"""Predictions as flat rows, under one contract for CSV and JSON lines.

Columns: `input`; `seconds` (a video's frame); `face` and `faces` (this face's number from 0, and
how many the picture has), `x0` to `y1` (pixels) and `confidence` where faces were detected; for
each task `{task}`, the likeliest class, and `{task}_{class}`; `expected_age` in years; `model`.
"""

from __future__ import annotations

from collections.abc import Sequence

from softbio_jax.inference.predictor import Prediction
from softbio_jax.tasks import AGE, TaskSpec

Row = dict[str, str | int | float | None]
Key = tuple[str, str]  # input, and seconds as written


def columns(tasks: Sequence[TaskSpec]) -> list[str]:
    """Returns the names of the columns, in their order."""
    names = ["input", "seconds", "face", "faces", "x0", "y0", "x1", "y1", "confidence"]
    for task in tasks:
        names += [task.name, *(f"{task.name}_{name}" for name in task.classes)]
        names += ["expected_age"] if task.name == AGE.name else []
    return [*names, "model"]


def rows(
    name: str,
    seconds: float | None,
    predictions: Sequence[Prediction],
    *,
    model: str,
    tasks: Sequence[TaskSpec],
) -> list[Row]:
    """Returns the rows of one picture or frame, one a face."""
    names, result = columns(tasks), []
    for number, prediction in enumerate(predictions):
        row: Row = dict.fromkeys(names) | {"input": name, "seconds": time_text(seconds)}
        if (face := prediction.face) is not None:
            row |= {"face": number, "faces": len(predictions)}
            row |= {key: round(side) for key, side in zip(names[4:8], face.box, strict=True)}
            row["confidence"] = _short(face.confidence)
        for task in tasks:
            row[task.name] = prediction.classes[task.name]
            for label, value in prediction.probabilities[task.name].items():
                row[f"{task.name}_{label}"] = _short(value)
        if prediction.expected_age is not None:
            row["expected_age"] = round(prediction.expected_age, 2)
        result.append(row | {"model": model})
    return result


def time_text(seconds: float | None) -> str | None:
    """Returns seconds as rows have them, to the millisecond."""
    return None if seconds is None else f"{seconds:.3f}"


def _short(value: float) -> float:
    return float(f"{value:.6g}")
