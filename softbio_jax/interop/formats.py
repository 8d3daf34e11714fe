"""Checkpoint formats by name, and strict reading of a file in any of them."""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from softbio_jax.errors import UserError
from softbio_jax.interop import official, stacking, timm
from softbio_jax.interop.keymap import Shapes, check_finite, check_shapes, hollow, shapes_of
from softbio_jax.interop.reading import locate
from softbio_jax.interop.safe_load import load_arrays
from softbio_jax.interop.timm import OFFICIAL_TO_TIMM
from softbio_jax.models.config import TEXT, VISION, VisionConfig

Arrays = Mapping[str, np.ndarray]
Step = Callable[[Arrays], dict[str, np.ndarray]]
_HALF = 0.5  # mean and standard deviation of pixels in [0, 1], of every channel
# The configurations of timm, open_clip and transformers beside weights, and their names of the two.
_FILES = ("config.json", "open_clip_config.json", "preprocessor_config.json")
_NAMES = ("mean", "std", "image_mean", "image_std")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Format:
    """A layout as a mapping to the official one and back: opened, to_official; from_official, closed."""

    name: str
    key: Callable[[str], bool]  # whether a key is this format's patch embedding
    head: tuple[str, ...]  # how the names of the projection begin, and of a head in its place
    to_official: Step = dict
    from_official: Step = dict
    opened: Step = dict  # a file's arrays to one entry per parameter and block
    closed: Step = dict  # the inverse


FORMATS = {
    format_.name: format_
    for format_ in (
        Format(
            name="official",
            key=lambda key: key.removeprefix("visual.") == "conv1.weight",
            head=("visual.proj", "visual.head.", "head."),
            opened=official.add_prefix,
            closed=official.drop_prefix,
        ),
        Format(
            name="timm",
            key=lambda key: key == "patch_embed.proj.weight",
            head=("head.",),
            to_official=OFFICIAL_TO_TIMM.backward,
            from_official=OFFICIAL_TO_TIMM.forward,
        ),
        Format(
            name="open_clip",
            key=lambda key: key == "visual.trunk.patch_embed.proj.weight",
            head=("visual.trunk.head.", "visual.head."),
            to_official=timm.to_official,
            from_official=timm.from_official,
        ),
        Format(
            name="softbio",
            key=lambda key: key == "encoder/patch_embed/kernel",
            head=("proj", "heads/"),
            to_official=official.OFFICIAL.backward,
            from_official=official.OFFICIAL.forward,
            opened=stacking.unstack,
            closed=stacking.stack,
        ),
    )
}


def detect(keys: Mapping[str, object], *, where: str) -> str:
    """Returns the name of the format whose patch embedding is among the keys.

    Raises:
      UserError: none of them; the fix names a level that holds one.
    """
    for format_ in FORMATS.values():
        if any(format_.key(key) for key in keys):
            return format_.name
    fix = "give a checkpoint of the vision encoder"
    if below := [level for level in map(_level_of, keys) if level]:
        fix = f"give {' or '.join(f'{where}:{level}' for level in below[:4])}"
    elif any(key.startswith("params/encoder/") for key in keys):
        fix = "scripts/export.py --format=safetensors writes the encoder of a saved model"
    raise UserError(
        "not a Perception Encoder checkpoint",
        where=where,
        expected=f"the patch embedding of a format among {', '.join(FORMATS)}",
        found=", ".join(list(keys)[:3]) or "no arrays",
        fix=fix,
    )


def _level_of(key: str) -> str:
    """Returns what precedes a patch embedding in a key, as `backbone` in `backbone.conv1.weight`."""
    parts = key.split(".")
    for i in range(1, len(parts)):
        if any(format_.key(".".join(parts[i:])) for format_ in FORMATS.values()):
            return ".".join(parts[:i])
    return ""


def official_shapes(variant: str, *, text: bool) -> dict[str, tuple[int, ...]]:
    """Returns the official keys of a variant and their shapes, with or without its text encoder."""
    shapes = official.vision_shapes(VISION[variant])
    return shapes | (official.text_shapes(TEXT[variant]) if text else {})


def read(
    path: str | pathlib.Path,
    *,
    config: VisionConfig,
    format_name: str | None = None,
    head_of: str | pathlib.Path | None = None,
) -> dict[str, np.ndarray]:
    """Reads a checkpoint of any format into the official layout, with `visual.` prefixes.

    Args:
      path: the file, or its folder.
      config: the variant that it must contain.
      format_name: one of `FORMATS`; None to detect it from the keys.
      head_of: an encoder of the variant whose projection replaces the file's head.

    Returns:
      official key -> array of the file's type; text keys only if the file has them.

    Raises:
      UserError: an unreadable file, another variant, format or normalisation, or the list of all
        keys, shapes and values that are wrong.
    """
    where = str(path)
    arrays, _ = load_arrays(path)
    check_beside(pathlib.Path(path))
    detected = detect(arrays, where=where)
    _check_floats(arrays, where)
    if format_name not in (None, detected):
        raise UserError(
            "checkpoint of another format",
            where=where,
            expected=format_name or "",
            found=detected,
            fix=f"set the format to {detected}",
        )
    format_ = FORMATS[detected]
    opened = format_.opened(arrays)
    if head_of is not None:
        opened = _headless(format_, opened)
        dtype = next(iter(opened.values())).dtype
        base = read(head_of, config=config)
        projection = {key: base[key].astype(dtype) for key in ("visual.proj",) if key in base}
        opened |= format_.from_official(projection)
    found = shapes_of(opened)
    expected, has_text = _expected(format_, config.name, found)
    if found != expected:
        _check_variant(format_, config.name, found, where)
        _check_head(format_, expected, found, where)
    layout = f"{config.name}{' with its text encoder' if has_text else ''} as {detected}"
    check_shapes(found, expected, where=where, layout=layout)
    check_finite(opened, where=where)
    return format_.to_official(opened)


def _check_floats(arrays: Arrays, where: str) -> None:
    """Checks that no array is of integers, as quantised weights are."""
    for key, array in arrays.items():
        if array.dtype.kind in "iubc":
            raise UserError(
                "weights that are not floating-point numbers",
                where=f"{where} key {key}",
                expected="float32, float16 or bfloat16",
                found=array.dtype.name,
                fix="give the weights from before they were quantised",
            )


def _expected(format_: Format, variant: str, found: Shapes) -> tuple[Shapes, bool]:
    """Returns the shapes in a file of this variant, with text if the file has any of it."""
    vision = shapes_of(format_.from_official(hollow(official_shapes(variant, text=False))))
    if variant not in TEXT or format_.name == "timm":
        return vision, False
    both = shapes_of(format_.from_official(hollow(official_shapes(variant, text=True))))
    has_text = any(key in found for key in both.keys() - vision.keys())
    return (both if has_text else vision), has_text


def _check_variant(format_: Format, variant: str, found: Shapes, where: str) -> None:
    for other in VISION:
        if other != variant and _expected(format_, other, found)[0] == found:
            raise UserError(
                f"checkpoint of {other} given for {variant}",
                where=where,
                expected=variant,
                found=other,
                fix=f"set the variant to {other}, or give another file",
            )


def _headless(format_: Format, entries: Mapping[str, Any]) -> dict[str, Any]:
    return {key: entry for key, entry in entries.items() if not key.startswith(format_.head)}


def _check_head(format_: Format, expected: Shapes, found: Shapes, where: str) -> None:
    if _headless(format_, found) == _headless(format_, expected):
        heads = [
            ", ".join(
                f"{key} {'x'.join(map(str, shape))}"
                for key, shape in shapes.items()
                if key.startswith(format_.head)
            )
            for shapes in (expected, found)
        ]
        raise UserError(
            "the encoder has another head",
            where=where,
            expected=heads[0] or "none",
            found=heads[1] or "none",
            fix="scripts/convert.py --head_of=ENCODER drops it and takes the projection of that encoder",
        )


def check_beside(weights: pathlib.Path) -> None:
    """Checks the normalisation in the configurations beside a file of weights.

    Raises:
      UserError: another mean or standard deviation.
    """
    weights, _ = locate.split_level(weights)
    for name in _FILES:
        path = (weights if weights.is_dir() else weights.parent) / name
        try:
            values = json.loads(path.read_text())
        except (OSError, ValueError):
            continue  # missing, or another kind of file
        for key, found in _named(values):
            if isinstance(found, list) and any(abs(value - _HALF) > 1e-3 for value in found):
                raise UserError(
                    "weights trained with another normalisation",
                    where=f"{path} {key}",
                    expected=f"{[_HALF] * 3}",
                    found=str(found),
                    fix="give weights of the Perception Encoder, or correct the file if it belongs to others",
                )


def _named(values: Any) -> Iterator[tuple[str, Any]]:
    """Yields the means and deviations of a configuration and of what is nested in it."""
    if isinstance(values, Mapping):
        for key, value in values.items():
            if key in _NAMES:
                yield key, value
            else:
                yield from _named(value)
