"""Compares another program's tensor or logits of the reference image, and names the step that went wrong."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from softbio_jax.errors import UserError
from softbio_jax.inference.reference import mistakes
from softbio_jax.inference.reference.write import NUMBERS, farthest

# Mean difference in levels: decoders and rounding differ by less, the nearest mistake by more.
_AGREES = 0.6
_EXPLAINS = 4.0
Path = str | pathlib.Path


def find(model: Path) -> pathlib.Path:
    """Returns the reference.json of an exported folder, or of an encoder's file.

    Raises:
      UserError: there is none.
    """
    model = pathlib.Path(model)
    place = model / NUMBERS if model.is_dir() else model.with_name(f"{model.stem}.{NUMBERS}")
    if not place.is_file():
        raise UserError(
            "no reference beside the model",
            where=str(model),
            expected=str(place.name),
            found="a folder without it" if model.is_dir() else "nothing",
            fix="export it again with scripts/export.py, or give the folder or file that it wrote",
        )
    return place


def _scale(expected: Mapping[str, Any]) -> mistakes.Scale:
    values = expected.get("normalisation")  # absent where it is the package's own
    return mistakes.scale_of(tuple(values["mean"]), tuple(values["std"])) if values else mistakes.SIGNED


def check_tensor(model: Path, tensor: Path) -> str:
    """Compares the tensor that another program makes of the reference image.

    Args:
      model: an exported folder, or the file of an exported encoder.
      tensor: a .npy file of one image, with or without the batch's axis.

    Returns:
      one line that says how near it is.

    Raises:
      UserError: another tensor; it names the steps that explain it.
    """
    place, numbers = _read(model)
    expected = numbers["tensor"]
    try:
        given = np.load(tensor, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        found, fix = f"{type(error).__name__}: {error}", "write it with numpy.save"
        raise UserError(
            "not a tensor", where=str(tensor), expected="a .npy file", found=found, fix=fix
        ) from error
    size = max(expected["shape"])
    jpeg = (place.parent / numbers["image"]).read_bytes()
    right = mistakes.LEVELS if expected["type"] == "uint8" else _scale(expected)
    layouts = dict(_layouts(given, size, expected["layout"]))
    if not layouts:
        raise UserError(
            "another shape",
            where=str(tensor),
            expected=str(tuple(expected["shape"])),
            found=str(given.shape),
            fix=f"resize {numbers['image']} to {size} x {size} and give one image",
        )
    if not all(np.isfinite(image).all() for image in layouts.values()):
        raise UserError("numbers that are not finite", where=str(tensor), fix="check the normalisation")
    best: tuple[float, tuple[str, ...]] | None = None
    stride = max(1, size // 96)  # enough pixels to distinguish thousands of combinations
    readings = {
        layout + (() if scale is right else (f"values {scale.name}",)): scale.levels(
            image[::stride, ::stride]
        )
        for layout, image in layouts.items()
        for scale in dict.fromkeys((right, *mistakes.SCALES))
    }
    for wrong, levels in mistakes.variants(jpeg, size):
        for reading, values in readings.items():
            difference = float(np.abs(values - levels[::stride, ::stride]).mean())
            # Of what explains it equally well, the fewest mistakes.
            candidate = (difference + 0.05 * len(reading + wrong), reading + wrong)
            best = candidate if best is None else min(best, candidate)
    assert best is not None
    difference, steps = best
    if not steps and difference <= _AGREES:
        return f"{tensor}: the expected tensor, mean difference {difference:.2f} of 255 levels"
    if difference > _EXPLAINS or not steps:
        raise UserError(
            "another tensor, by a step that is not known",
            where=str(tensor),
            expected=f"mean {expected['mean']}, std {expected['std']}",
            found=f"mean {_means(given)}; nearest: {', '.join(steps) or 'the right way'},"
            f" {difference:.1f} levels off",
            fix="compare levels_of_tiles in reference.json tile by tile",
        )
    raise UserError(
        "another preprocessing",
        where=str(tensor),
        expected="as config.json describes it",
        found=", ".join(steps),
        fix="; ".join(dict.fromkeys(_fix(step, expected) for step in steps)),
    )


def check_logits(model: Path, logits: Path) -> str:
    """Compares the logits that another program computes for the reference image.

    Args:
      model: an exported folder, or the file of an exported encoder.
      logits: a .json file {task: [one number per class]}.

    Returns:
      one line that says how near they are, and to which file's.

    Raises:
      UserError: other logits; it names the mistake that gives them.
    """
    _, numbers = _read(model)
    first = next(iter(numbers["files"].values()))["logits"]
    given = _read_logits(logits, first)
    candidates = []
    for file, entry in numbers["files"].items():
        for name, values in ({"": entry["logits"]} | entry["mistakes"]).items():
            away = _away(entry, given, values)
            candidates.append((away / entry["tolerance"], away, name, file))

    def order(found: tuple[float, float, str, str]) -> tuple[int, tuple[float, float, str, str]]:
        share, _, name, file = found
        rough = _of_probabilities(numbers["files"][file])
        # What agrees, agrees, even where a mistake that changes nothing is nearer by chance. A mistake in
        # float32 is known by its logits, while int8 may agree with it as well.
        return (2 * rough + bool(name) if share <= 1 else 3), found

    share, distance, name, file = min(candidates, key=order)
    entry = numbers["files"][file]
    if not name and share <= 1:
        allowed, others = entry["tolerance"], entry["mistakes"].items()
        same = [wrong for wrong, values in others if _away(entry, given, values) <= allowed]
        note = f"; they do not tell it from: {', '.join(same)} (use --tensor)" if same else ""
        kind = " of probabilities" if _of_probabilities(entry) else ""
        return (
            f"{logits}: the logits of {file}, largest difference{kind} {distance:.1e} of {allowed:.1e}{note}"
        )
    to_right = _away(entry, given, entry["logits"])
    if name and distance < to_right / 2:
        raise UserError(
            "logits of another preprocessing",
            where=str(logits),
            expected=f"those of {file}, which are {to_right:.2g} away",
            found=f"{name}, {distance:.1e} away",
            fix=_fix(name, numbers["tensor"]),
        )
    raise UserError(
        "other logits, by a step that is not known",
        where=str(logits),
        expected=f"those of {file} within {entry['tolerance']:.1e}",
        found=f"{to_right:.2g} away",
        fix="check the tensor first, with --tensor",
    )


def _read(model: Path) -> tuple[pathlib.Path, dict[str, Any]]:
    place = find(model)
    try:
        numbers: dict[str, Any] = json.loads(place.read_text())
        numbers["files"], numbers["tensor"]["shape"], numbers["image"]
        return place, numbers
    except (ValueError, KeyError, TypeError) as error:
        found, fix = f"{type(error).__name__}: {error}", "export the model again"
        raise UserError("not a reference", where=str(place), found=found, fix=fix) from error


def _read_logits(path: Path, expected: Mapping[str, Any]) -> dict[str, np.ndarray]:
    try:
        values = json.loads(pathlib.Path(path).read_text())
        given = {task: np.asarray(values[task], np.float64).reshape(-1) for task in expected}
        wrong = [task for task, row in given.items() if len(row) != len(expected[task])]
        if wrong or not all(np.isfinite(row).all() for row in given.values()):
            raise ValueError(f"{(wrong or ['a value'])[0]} is not one finite number per class")
    except (OSError, ValueError, KeyError, TypeError) as error:
        wanted = ", ".join(f"{task} ({len(row)} numbers)" for task, row in expected.items())
        raise UserError(
            "not the logits of one image",
            where=str(path),
            expected=f"a JSON object of {wanted}",
            found=f"{type(error).__name__}: {error}",
            fix='write {"task": [one number per class], ...}',
        ) from error
    return given


def _layouts(given: np.ndarray, size: int, layout: str) -> Iterator[tuple[tuple[str, ...], np.ndarray]]:
    """Yields (what is wrong, the image (S, S, 3)) for the ways in which the numbers may be arranged."""
    image = given[0] if given.ndim == 4 and len(given) == 1 else given
    found = {(size, size, 3): "NHWC", (3, size, size): "NCHW"}.get(image.shape)
    if found is None:
        return
    image = image.astype(np.float64)
    other = "NCHW" if found == "NHWC" else "NHWC"
    plain = image if found == "NHWC" else image.transpose(1, 2, 0)
    mixed = (
        image.reshape(3, size, size).transpose(1, 2, 0) if found == "NHWC" else image.reshape(size, size, 3)
    )
    wrong = () if found == layout else (f"layout {found} instead of {layout}",)
    yield wrong, plain
    yield (*wrong, "rows and columns exchanged"), plain.transpose(1, 0, 2)
    yield (f"{other} reshaped to {found} instead of transposed",), mixed


def _means(given: np.ndarray) -> list[float]:
    image = given[0] if given.ndim == 4 else given
    axes = (0, 1) if image.shape[-1] == 3 else (1, 2)
    return [float(f"{value:.4g}") for value in image.astype(np.float64).mean(axes)]


def _fix(step: str, expected: Mapping[str, Any]) -> str:
    if step.startswith("values "):
        if expected["type"] == "uint8":
            return "give uint8 of 0 to 255: this model normalises inside"
        return "normalise as (v / 255 - 0.5) / 0.5"
    if step in mistakes.FIXES:
        return mistakes.FIXES[step]
    return f"give {expected['layout']} of shape {tuple(expected['shape'])}, transposed and not reshaped"


def _of_probabilities(entry: Mapping[str, Any]) -> bool:
    return bool(entry.get("measure") == "probabilities")


def _away(entry: Mapping[str, Any], given: Mapping[str, Any], values: Mapping[str, Any]) -> float:
    """Returns how far logits are from a file's, in its measure; files of older exports have logits alone."""
    return farthest(given, values) if _of_probabilities(entry) else _distance(given, values)


def _distance(left: Mapping[str, Any], right: Mapping[str, Any]) -> float:
    return max(float(np.abs(np.subtract(left[task], right[task])).max()) for task in right)
