"""Compares exported models, each in its own runtime: size, latency, logits and accuracy."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from softbio_jax.console import QUIET, Console, markdown, percent
from softbio_jax.data.decode import decode
from softbio_jax.data.sources import PreparedDataset
from softbio_jax.errors import UserError
from softbio_jax.inference.bundle import Bundle
from softbio_jax.inference.export import litert, onnx, stablehlo
from softbio_jax.inference.export.stablehlo import CONFIG
from softbio_jax.inference.reference.write import probability_distance
from softbio_jax.tasks import MISSING

Logits = Mapping[str, np.ndarray]
Runtime = Callable[[np.ndarray], Mapping[str, Any]]
_BATCHES, _BATCHED = (3, 16), 96  # sizes; images that are run in them
_WARM_UP = 3  # calls before measuring: compilation, first allocations
_LOADERS: Mapping[str, tuple[str, Callable[[pathlib.Path], Runtime]]] = {
    "stablehlo": ("*.stablehlo", lambda path: stablehlo.load(path.parent)),
    "onnx": ("*.onnx", lambda path: onnx.load(path, threads=1)),
    "litert": ("*.tflite", lambda path: litert.load(path, threads=1)),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """Measurements of one model file.

    Args:
      name: format and precision.
      bytes: size on disk of the weights and program.
      milliseconds: median over images, one per call.
      logit_error: largest absolute difference to JAX's float32 logits.
      distance: mean over images and tasks of the distance of probabilities to JAX's, see
        `probability_distance`; what int8 is judged by, as its logits are never equal.
      accuracy: task -> fraction of labelled images with the right class.
      agreement: fraction of images and tasks with JAX's class.
      batch_change: largest change of an image's logits in batches of 3 and 16 against alone; None
        where there are fewer images. A LiteRT file computes as many images per call as it was written for.
    """

    name: str
    bytes: int
    milliseconds: float
    logit_error: float
    distance: float
    accuracy: Mapping[str, float]
    agreement: float
    batch_change: float | None


def compare(
    bundle: Bundle,
    folders: Sequence[pathlib.Path],
    datasets: Sequence[PreparedDataset],
    *,
    limit: int | None = None,
    console: Console = QUIET,
) -> list[Row]:
    """Runs the model and its exports in turns on the same images, one image per call.

    The other runtimes use one thread, JAX its default.

    Args:
      bundle: the model, the first row.
      folders: exports of it by scripts/export.py.
      limit: maximum number of images per data set.

    Raises:
      UserError: no images, or a folder that is not an export.
    """
    runtimes, sizes = _runtimes(bundle, folders)
    logits: dict[str, list[Logits]] = {name: [] for name in runtimes}
    seconds: dict[str, list[float]] = {name: [] for name in runtimes}
    chosen = [(dataset, i) for dataset in datasets for i in range(len(dataset))[:limit]]
    if not chosen:
        raise UserError(
            "no images to compare on",
            where="--data",
            expected="a prepared data set",
            found="an empty one",
            fix="name another",
        )
    # Images of all sets, mixed: neighbours in a batch are as different as the data are.
    mixed = np.random.default_rng(0).permutation(len(chosen))[:_BATCHED].tolist()
    kept: dict[int, np.ndarray] = dict.fromkeys(mixed, np.empty(0))
    meter = console.meter("comparing", len(chosen))
    for place, (dataset, i) in enumerate(chosen):
        image = decode(dataset[i], size=bundle.image_size)[None]
        if place in kept:
            kept[place] = image
        for name, run in runtimes.items():
            for _ in range(0 if logits[name] else _WARM_UP):
                jax.block_until_ready(run(image))
            start = time.perf_counter()
            found = jax.block_until_ready(run(image))
            seconds[name].append(time.perf_counter() - start)
            logits[name].append({task: np.asarray(values)[0] for task, values in found.items()})
        meter.add()
    names = [task.name for task in bundle.tasks]
    stacked = {
        runtime: {task: np.stack([row[task] for row in rows]) for task in names}
        for runtime, rows in logits.items()
    }
    first = stacked["JAX"]
    truth = {
        task: np.array([d.labels[task][i] if task in d.labels else MISSING for d, i in chosen])
        for task in names
    }
    return [
        Row(
            name=name,
            bytes=sizes[name],
            milliseconds=1e3 * float(np.median(seconds[name])),
            logit_error=max(float(np.abs(own[t] - first[t]).max()) for t in truth),
            distance=float(np.mean([probability_distance(own[t], first[t]) for t in truth])),
            accuracy=_accuracy(own, truth),
            agreement=float(np.mean([own[t].argmax(-1) == first[t].argmax(-1) for t in truth])),
            batch_change=_batch_change(runtimes[name], kept, own),
        )
        for name, own in stacked.items()
    ]


def table(rows: Sequence[Row]) -> str:
    """Returns the rows as a Markdown table, accuracy in percent and its change in points."""
    tasks, base = list(rows[0].accuracy), rows[0].accuracy
    header = ["model", "MB", "ms per image", "largest logit error", "distance of probabilities"]
    header += ["changed by its batch", "same class %"]
    header += [f"{task} accuracy %" for task in tasks]
    lines = []
    for row in rows:
        changes = {t: 100 * (row.accuracy[t] - base[t]) for t in tasks}
        cells = [row.name, f"{row.bytes / 1e6:.2f}", f"{row.milliseconds:.2f}", f"{row.logit_error:.1e}"]
        cells.append(f"{row.distance:.1e}")
        cells.append("-" if row.batch_change is None else f"{row.batch_change:.1e}")
        cells += [percent(row.agreement), *(f"{percent(row.accuracy[t])} ({changes[t]:+.2f})" for t in tasks)]
        lines.append(cells)
    return f"{markdown(header, lines)}\n"


def as_json(bundle: Bundle, rows: Sequence[Row]) -> str:
    """Returns the rows as a JSON object, without paths."""
    values = {"model": bundle.name, "rows": [dataclasses.asdict(row) for row in rows]}
    return json.dumps(values, indent=1) + "\n"


def _runtimes(bundle: Bundle, folders: Sequence[pathlib.Path]) -> tuple[dict[str, Runtime], dict[str, int]]:
    variables = jax.device_put(bundle.variables)
    forward = jax.jit(bundle.forward)
    runtimes: dict[str, Runtime] = {"JAX": lambda images: forward(variables, images)}
    sizes = {"JAX": sum(leaf.nbytes for leaf in jax.tree.leaves(bundle.variables))}
    for folder in folders:
        try:
            config = json.loads((folder / CONFIG).read_text())
            form = config["format"]
            pattern, load = _LOADERS[form]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                "not an exported model",
                where=str(folder),
                expected="a folder that scripts/export.py wrote",
                found=type(error).__name__,
                fix="correct the path",
            ) from error
        for path in sorted(folder.glob(pattern), key=lambda path: len(path.name)):
            precision = "float32"
            if ".int8." in path.name:
                static = "static" in config.get("quantisation", {}).get("activations", "")
                precision = "int8, calibrated" if static else "int8"
            name = f"{form} {precision}"
            if name in runtimes:  # of several folders of a format
                name = f"{name} ({folder.name})"
            runtimes[name] = load(path)
            sizes[name] = sum(part.stat().st_size for part in folder.glob(f"{path.name}*"))
    return runtimes, sizes


def _batch_change(run: Runtime, images: Mapping[int, np.ndarray], alone: Logits) -> float | None:
    """Returns the largest difference between an image's logits in a batch and alone."""
    places = list(images)
    if len(places) < min(_BATCHES):
        return None
    change = 0.0
    for size in _BATCHES:
        for start in range(0, len(places) - size + 1, size):
            rows = places[start : start + size]
            found = run(np.concatenate([images[place] for place in rows]))
            differences = [
                np.abs(np.asarray(values) - alone[task][rows]).max() for task, values in found.items()
            ]
            change = max(change, float(max(differences)))
    return change


def _accuracy(logits: Logits, truth: Logits) -> dict[str, float]:
    found = {}
    for task, labels in truth.items():
        known = labels != MISSING
        if known.any():
            found[task] = float((logits[task].argmax(-1) == labels)[known].mean())
    return found
