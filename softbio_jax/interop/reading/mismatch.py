"""What is wrong with a file whose arrays are not those of the variant that it was given for."""

import math
import re
from collections.abc import Iterable
from typing import Any

from softbio_jax.errors import UserError
from softbio_jax.interop.keymap import Format, Shapes
from softbio_jax.models.config import TEXT, VisionConfig

# Names of a text encoder's arrays in files of any library.
_TEXT = re.compile(r"(text|transformer|token_embedding|positional_embedding|ln_final|logit_)")


def explain(
    format_: Format,
    config: VisionConfig,
    expected: Shapes,
    found: Shapes,
    others: Iterable[tuple[VisionConfig, Shapes, Shapes]],
    *,
    where: str,
) -> None:
    """Raises UserError for a mistake that has a name; returns where there is none.

    Args:
      format_: the file's.
      config: the variant that was asked for.
      expected: the shapes of the variant.
      found: the shapes in the file.
      others: other variants, each with the file's shapes as its family reads them, and its own.
      where: the file.
    """
    _check_variant(config, others, where)
    _check_text(config, expected, found, where)
    _check_patch(format_, config, expected, found, where)
    _check_grid(config, expected, found, where)
    _check_head(format_, expected, found, where)


def _check_variant(
    config: VisionConfig, others: Iterable[tuple[VisionConfig, Shapes, Shapes]], where: str
) -> None:
    alike = ""
    for other, found, expected in others:
        if found == expected:
            raise UserError(
                f"checkpoint of {other.name} given for {config.name}",
                where=where,
                expected=config.name,
                found=other.name,
                fix=f"set the variant to {other.name}, or give another file",
            )
        if other.family != config.family and set(map(_kind, found)) == set(map(_kind, expected)):
            alike = other.family
    if alike:
        raise UserError(
            f"checkpoint of another family given for {config.name}",
            where=where,
            expected=config.family,
            found=f"the names of {alike}, of other sizes than its variants",
            fix="give a checkpoint of this family",
        )


def _kind(key: str) -> str:
    return re.sub(r"\d+", "*", key)


def _check_text(config: VisionConfig, expected: Shapes, found: Shapes, where: str) -> None:
    extra = [key for key in found if key not in expected]
    if extra and all(key in found for key in expected) and all(_TEXT.match(key) for key in extra):
        raise UserError(
            "a text encoder where none is expected",
            where=where,
            expected=config.name if config.name in TEXT else f"{config.name}, which has none",
            found=", ".join(extra[:3]),
            fix="remove these arrays, or name the variant with the text encoder",
        )


def _check_patch(format_: Format, config: VisionConfig, expected: Shapes, found: Shapes, where: str) -> None:
    for key in (format_.key, f"visual.{format_.key}"):
        if key in expected and key in found:
            sides = found[key][:2] if format_.name == "softbio" else found[key][2:]
            if len(set(sides)) == 1 and sides[0] != config.patch_size:
                raise UserError(
                    "patch size that does not fit",
                    where=f"{where} key {key}",
                    expected=f"{config.patch_size} x {config.patch_size} pixels, of {config.name}",
                    found=" x ".join(map(str, sides)),
                    fix="name the variant of this patch size, or give a file of this one",
                )


def _check_grid(config: VisionConfig, expected: Shapes, found: Shapes, where: str) -> None:
    """Raises for a position embedding of another number of patches, as the only shape that differs."""
    others = [key for key in expected if found.get(key) != expected[key]]
    if found.keys() != expected.keys() or len(others) != 1 or "pos" not in others[0]:
        return
    own, theirs = expected[others[0]], found[others[0]]
    if len(theirs) != len(own) or theirs[-1] != own[-1]:
        return
    patches = theirs[-2] - (own[-2] - config.grid**2)
    side = math.isqrt(max(patches, 0))
    if side and side**2 == patches:
        size = config.image_size
        raise UserError(
            "position embedding of another image size",
            where=f"{where} key {others[0]}",
            expected=f"{config.grid} x {config.grid} patches, of {size} pixels",
            found=f"{side} x {side}, of {side * config.patch_size} pixels",
            fix=f"resample it: of timm's files create_model(NAME, img_size={side * config.patch_size}, "
            f"checkpoint_path=FILE), then set_input_size({size}); save its state_dict()",
        )


def _check_head(format_: Format, expected: Shapes, found: Shapes, where: str) -> None:
    def parts(shapes: Shapes, *, head: bool) -> dict[str, Any]:
        return {key: shape for key, shape in shapes.items() if key.startswith(format_.head) == head}

    if parts(found, head=False) == parts(expected, head=False):
        heads = [
            ", ".join(f"{key} {'x'.join(map(str, shape))}" for key, shape in parts(shapes, head=True).items())
            for shapes in (expected, found)
        ]
        raise UserError(
            "the encoder has another head",
            where=where,
            expected=heads[0] or "none",
            found=heads[1] or "none",
            fix="scripts/convert.py --head_of=ENCODER drops it and takes the projection of that encoder",
        )
