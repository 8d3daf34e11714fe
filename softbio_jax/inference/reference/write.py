"""Writes the reference of an exported model: an image, the tensor that it becomes, and its logits."""

from __future__ import annotations

import json
import pathlib
import types
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
from scipy import special

from softbio_jax.inference.reference import camera, drawing, mistakes, standalone

IMAGE, NUMBERS, SCRIPT, CAMERA = "reference.jpg", "reference.json", "run.py", "camera.py"
# An image (1, S, S, 3), or (1, 3, S, S), to {task: logits (1, C)}.
Run = Callable[[np.ndarray], Mapping[str, Any]]
_GRID = 8  # the tensor's means are stored over so many rows and columns of tiles
_DIGITS = 6
_LEAST_INT8 = 0.02  # tolerance of probabilities, besides what a level moves


def write_reference(
    folder: pathlib.Path,
    runs: Mapping[str, Run],
    *,
    size: int,
    prefix: str = "",
    normalised: str = "inside",
    layout: str = "NHWC",
    scale: mistakes.Scale = mistakes.SIGNED,
    script: bool = False,
    quantised: Collection[str] = (),
) -> None:
    """Writes reference.jpg, reference.json and, if asked, run.py beside a model.

    Args:
      folder: where the model is.
      runs: file of the model -> what computes its logits, of every file in its own runtime.
      size: the side S in pixels.
      prefix: of the names, where several models share a folder.
      normalised: "inside" the model, which then takes uint8, or "outside".
      layout: of the input, NHWC or NCHW.
      scale: of the input that is normalised outside.
      script: whether to write the script that runs the model without this package.
      quantised: the files whose activations are int8. Kernels of different processors round them
        differently, so their tolerance is one of probabilities, see `probability_distance`.
    """
    jpeg = drawing.reference_jpeg(size)
    inside = normalised == "inside"
    right = mistakes.LEVELS if inside else scale
    levels = mistakes.single(jpeg, size)
    wanted = levels.pop("")

    def tensor(image: np.ndarray, scale: mistakes.Scale = right) -> np.ndarray:
        values = scale.values(image)
        values = np.rint(values).clip(0, 255).astype(np.uint8) if inside else values.astype(np.float32)
        return values if layout == "NHWC" else values.transpose(2, 0, 1)

    wrong = {name: tensor(image) for name, image in levels.items()}
    for other in mistakes.SCALES:
        if other not in (right, mistakes.TWICE):
            wrong[f"values {other.name}"] = tensor(wanted, other)
    rng = np.random.default_rng(0)
    near = [tensor((wanted + rng.integers(-1, 2, wanted.shape)).clip(0, 255)) for _ in range(2)]
    expected = tensor(wanted)
    numbers: dict[str, Any] = {
        "image": prefix + IMAGE,
        "exif_orientation": drawing.ORIENTATION,
        "tensor": _statistics(expected, wanted, layout),
        "files": {},
    }
    if right not in (mistakes.LEVELS, mistakes.SIGNED):
        numbers["tensor"]["normalisation"] = {"mean": list(right.mean), "std": list(right.std)}
    for file, run in runs.items():
        logits = _logits(run, expected)
        # What decoders may differ by: a level here and there.
        away, least = (farthest, _LEAST_INT8) if file in quantised else (_distance, 1e-3)
        moved = max(away(_logits(run, image), logits) for image in near)
        numbers["files"][file] = {
            "logits": logits,
            "measure": "probabilities" if file in quantised else "logits",
            "tolerance": float(f"{2 * moved + least:.2g}"),
            "mistakes": {name: _logits(run, image) for name, image in wrong.items()},
        }
    (folder / (prefix + IMAGE)).write_bytes(jpeg)
    (folder / (prefix + NUMBERS)).write_text(json.dumps(numbers, indent=1) + "\n")
    if script:
        _copy(standalone, folder / SCRIPT)


def write_camera(folder: pathlib.Path) -> None:
    """Writes camera.py beside a LiteRT model: the loop from frames to answers."""
    _copy(camera, folder / CAMERA)


def _copy(module: types.ModuleType, path: pathlib.Path) -> None:
    path.write_text(pathlib.Path(str(module.__file__)).read_text(encoding="utf-8"), encoding="utf-8")


def tiles(levels: np.ndarray) -> np.ndarray:
    """Returns the mean levels of G x G tiles, (G, G, 3), of an image (S, S, 3)."""
    rows = np.array_split(levels.astype(np.float64), _GRID, axis=0)
    return np.array([[tile.mean((0, 1)) for tile in np.array_split(row, _GRID, axis=1)] for row in rows])


def probability_distance(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Returns the total variation sum_c |p_c - q_c| / 2, 0 to 1, of p, q = softmax of logits (..., C)."""
    p, q = special.softmax(left, axis=-1), special.softmax(right, axis=-1)
    return np.abs(p - q).sum(axis=-1) / 2


def farthest(left: Mapping[str, Any], right: Mapping[str, Any]) -> float:
    """Returns the largest `probability_distance` over the tasks of {task: logits (C,)}."""
    return max(float(probability_distance(np.array(left[task]), np.array(right[task]))) for task in right)


def _statistics(tensor: np.ndarray, levels: np.ndarray, layout: str) -> dict[str, Any]:
    channels = (0, 1) if layout == "NHWC" else (1, 2)
    values = tensor.astype(np.float64)
    return {
        "shape": [1, *tensor.shape],
        "type": tensor.dtype.name,
        "layout": layout,
        "mean": _rounded(values.mean(channels)),
        "std": _rounded(values.std(channels)),
        "min": _rounded(values.min(channels)),
        "max": _rounded(values.max(channels)),
        "levels_of_tiles": np.round(tiles(levels), 2).tolist(),  # 0..255, before any normalisation
    }


def _logits(run: Run, image: np.ndarray) -> dict[str, list[float]]:
    return {task: _rounded(np.asarray(values)[0]) for task, values in run(image[None]).items()}


def _distance(left: Mapping[str, Any], right: Mapping[str, Any]) -> float:
    return max(float(np.abs(np.subtract(left[task], right[task])).max()) for task in right)


def _rounded(values: np.ndarray) -> list[float]:
    return [float(f"{value:.{_DIGITS}g}") for value in values.tolist()]
