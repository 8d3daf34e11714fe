"""Exported models side by side, each in its own runtime: size, latency, logits and accuracy."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from softbio_jax.data.decode import decode
from softbio_jax.data.sources import PreparedDataset
from softbio_jax.errors import UserError
from softbio_jax.inference.bundle import Bundle
from softbio_jax.inference.export import litert, onnx, stablehlo
from softbio_jax.inference.export.stablehlo import CONFIG
from softbio_jax.tasks import MISSING

Run = Callable[[np.ndarray], Mapping[str, Any]]
_WARM_UP = 3  # calls before the clock counts: compilation, first allocations


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """A model file's line of the table.

    Args:
      name: the format and file.
      bytes: size of the weights and program on disk.
      milliseconds: median over pictures, one a call.
      logit_error: largest absolute difference to JAX's float32 logits, any task and picture.
      accuracy: task -> share of right classes among labelled pictures.
      agreement: share of pictures and tasks with JAX's class.
    """

    name: str
    bytes: int
    milliseconds: float
    logit_error: float
    accuracy: Mapping[str, float]
    agreement: float


def compare(
    bundle: Bundle,
    folders: Sequence[pathlib.Path],
    datasets: Sequence[PreparedDataset],
    *,
    limit: int | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> list[Row]:
    """Runs the model and its exports on the same pictures, in turns, one picture a call.

    The other runtimes have one thread, JAX those it takes.

    Args:
      bundle: the model, the first row.
      folders: what scripts/export.py wrote from it.
      datasets: pictures with labels.
      limit: pictures of each data set at most.
      progress: told how many pictures are done.

    Raises:
      UserError: no pictures, or a folder that is no export.
    """
    runs, sizes = _runs(bundle, folders)
    logits: dict[str, list[Mapping[str, np.ndarray]]] = {name: [] for name in runs}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    labels: dict[str, list[int]] = {task.name: [] for task in bundle.tasks}
    for dataset, i in _pictures(datasets, limit):
        picture = decode(dataset[i], size=bundle.image_size)[None]
        for name, run in runs.items():
            for _ in range(0 if logits[name] else _WARM_UP):
                jax.block_until_ready(run(picture))
            start = time.perf_counter()
            found = jax.block_until_ready(run(picture))
            seconds[name].append(time.perf_counter() - start)
            logits[name].append({task: np.asarray(values)[0] for task, values in found.items()})
        for task, values in labels.items():
            values.append(int(dataset.labels[task][i]) if task in dataset.labels else MISSING)
        progress(len(next(iter(labels.values()))))
    if not next(iter(labels.values())):
        raise UserError(
            "no pictures to compare on",
            where="--data",
            expected="a prepared set",
            found="an empty one",
            fix="name another",
        )
    stacked = {
        name: {task: np.stack([row[task] for row in rows]) for task in labels}
        for name, rows in logits.items()
    }
    first = stacked[next(iter(runs))]
    truth = {task: np.array(values) for task, values in labels.items()}
    return [
        Row(
            name=name,
            bytes=sizes[name],
            milliseconds=1e3 * float(np.median(seconds[name])),
            logit_error=max(float(np.abs(own[t] - first[t]).max()) for t in truth),
            accuracy=_accuracy(own, truth),
            agreement=_agreement(own, first),
        )
        for name, own in stacked.items()
    ]


def table(rows: Sequence[Row]) -> str:
    """Returns the rows as a Markdown table, accuracy in percent and its change in points."""
    tasks = list(rows[0].accuracy)
    lines = [
        "| model | MB | ms a picture | largest logit error | same class % |"
        + "".join(f" {task} accuracy % |" for task in tasks),
        "|---|---|---|---|---|" + "---|" * len(tasks),
    ]
    for row in rows:
        accuracies = "".join(
            f" {100 * row.accuracy[t]:.2f} ({100 * (row.accuracy[t] - rows[0].accuracy[t]):+.2f}) |"
            for t in tasks
        )
        figures = (
            f" {row.bytes / 1e6:.2f} | {row.milliseconds:.2f} | {row.logit_error:.1e} |"
            f" {100 * row.agreement:.2f} |"
        )
        lines.append(f"| {row.name} |{figures}{accuracies}")
    return "\n".join(lines) + "\n"


def _runs(bundle: Bundle, folders: Sequence[pathlib.Path]) -> tuple[dict[str, Run], dict[str, int]]:
    variables = jax.device_put(bundle.variables)
    forward = jax.jit(bundle.forward)
    runs: dict[str, Run] = {"JAX": lambda images: forward(variables, images)}
    sizes = {"JAX": sum(leaf.nbytes for leaf in jax.tree.leaves(bundle.variables))}
    for folder in folders:
        try:
            form = json.loads((folder / CONFIG).read_text())["format"]
            files = {"stablehlo": "*.stablehlo", "onnx": "*.onnx", "litert": "*.tflite"}[form]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                "not an exported model",
                where=str(folder),
                expected="a folder that scripts/export.py wrote",
                found=type(error).__name__,
                fix="correct the path",
            ) from error
        for path in sorted(folder.glob(files), key=lambda path: len(path.name)):
            name = f"{form} {'int8' if '.int8.' in path.name else 'float32'}"
            match form:
                case "stablehlo":
                    runs[name] = stablehlo.load(folder)
                case "onnx":
                    runs[name] = onnx.load(path, threads=1)
                case "litert":
                    runs[name] = litert.load(path, threads=1)
            sizes[name] = sum(part.stat().st_size for part in folder.glob(f"{path.name}*"))
    return runs, sizes


def _pictures(
    datasets: Sequence[PreparedDataset], limit: int | None
) -> Iterable[tuple[PreparedDataset, int]]:
    for dataset in datasets:
        for i in range(len(dataset) if limit is None else min(limit, len(dataset))):
            yield dataset, i


def _accuracy(logits: Mapping[str, np.ndarray], truth: Mapping[str, np.ndarray]) -> dict[str, float]:
    found = {}
    for task, labels in truth.items():
        known = labels != MISSING
        if known.any():
            found[task] = float((logits[task].argmax(-1) == labels)[known].mean())
    return found


def _agreement(one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> float:
    return float(np.mean([one[t].argmax(-1) == other[t].argmax(-1) for t in other]))
