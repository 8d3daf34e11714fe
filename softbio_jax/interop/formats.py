"""Checkpoint formats by name, and strict reading of a file in any of them."""

import dataclasses
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from softbio_jax.errors import UserError
from softbio_jax.interop import official, stacking, timm
from softbio_jax.interop.families import clip, dinov2, dinov3, siglip2
from softbio_jax.interop.keymap import Format, KeyMap, Shapes, check_finite, check_shapes, hollow, shapes_of
from softbio_jax.interop.reading import beside, locate, mismatch
from softbio_jax.interop.safe_load import load_arrays
from softbio_jax.interop.timm import OFFICIAL_TO_TIMM
from softbio_jax.models.config import TEXT, VISION, VisionConfig

Arrays = Mapping[str, np.ndarray]
# Numbers in files of transformers and OpenAI that are no weights.
_COUNTERS = (".position_ids", "input_resolution", "context_length", "vocab_size")
# Of the Perception Encoder, ours included.
FORMATS = {
    format_.name: format_
    for format_ in (
        Format(
            name="official",
            holds=lambda keys: "conv1.weight" in keys or "visual.conv1.weight" in keys,
            key="conv1.weight",
            head=("visual.proj", "visual.head.", "head."),
            opened=official.add_prefix,
            closed=official.drop_prefix,
        ),
        Format(
            name="timm",
            holds=lambda keys: "patch_embed.proj.weight" in keys,
            key="patch_embed.proj.weight",
            head=("head.",),
            to_official=OFFICIAL_TO_TIMM.backward,
            from_official=OFFICIAL_TO_TIMM.forward,
        ),
        Format(
            name="open_clip",
            holds=lambda keys: "visual.trunk.patch_embed.proj.weight" in keys,
            key="visual.trunk.patch_embed.proj.weight",
            head=("visual.trunk.head.", "visual.head."),
            to_official=timm.to_official,
            from_official=timm.from_official,
        ),
        Format(
            name="softbio",
            holds=lambda keys: "encoder/patch_embed/kernel" in keys,
            key="encoder/patch_embed/kernel",
            head=("proj", "heads/"),
            to_official=official.OFFICIAL.backward,
            from_official=official.OFFICIAL.forward,
            opened=stacking.unstack,
            closed=stacking.stack,
        ),
    )
}


_OURS = {"softbio": FORMATS["softbio"]}


def _transformers(keymap: KeyMap, head: tuple[str, ...]) -> Format:
    """Returns transformers' format of a model with both encoders, or of the vision encoder alone."""
    key = f"{clip.EMBEDDINGS}.patch_embedding.weight"
    outer, _, alone = key.partition(".")

    def opened(arrays: Arrays) -> dict[str, np.ndarray]:
        """Returns an encoder that transformers 5 saved alone under its names in the model of both."""
        prefix = f"{outer}." if alone in arrays else ""
        return {f"{prefix}{name}": array for name, array in arrays.items()}

    return Format(
        name="transformers",
        holds=lambda keys: key in keys or alone in keys,
        key=key,
        head=head,
        to_official=keymap.backward,
        from_official=keymap.forward,
        opened=opened,
    )


_CLIP = _transformers(clip.OFFICIAL_TO_TRANSFORMERS, ("visual_projection.", "classifier."))
_SIGLIP2 = _transformers(siglip2.OFFICIAL_TO_TRANSFORMERS, ("classifier.",))
_SIGLIP2_OPEN_CLIP = dataclasses.replace(
    FORMATS["open_clip"], to_official=siglip2.from_open_clip, from_official=siglip2.to_open_clip
)
FAMILIES: Mapping[str, Mapping[str, Format]] = {
    "perception": FORMATS,
    "dinov2": dinov2.FORMATS | _OURS,
    "dinov3": dinov3.FORMATS | _OURS,
    # OpenAI's names are the Perception Encoder's.
    "clip": {name: FORMATS[name] for name in ("official", "timm", "softbio")} | {"transformers": _CLIP},
    "siglip2": FORMATS
    | {"open_clip": _SIGLIP2_OPEN_CLIP, "transformers": _SIGLIP2, "big_vision": siglip2.BIG_VISION},
}
NAMES = tuple(dict.fromkeys(name for formats in FAMILIES.values() for name in formats))


def of(config: VisionConfig, name: str) -> Format:
    """Returns a format of a variant's family.

    Raises:
      UserError: the family has no such format.
    """
    known = FAMILIES[config.family]
    if name not in known:
        raise UserError(
            "no such format of this family",
            where=f"{name} for {config.name}",
            expected=f"one of {', '.join(known)}",
            found=name,
            fix="choose one of them",
        )
    return known[name]


def written(config: VisionConfig, name: str, state: Arrays) -> dict[str, np.ndarray]:
    """Returns a vision encoder of official keys as the file of a format has it.

    Raises:
      UserError: the family has no such format, or the format no place for a new pooling.
    """
    format_ = of(config, name)
    variant = VISION[config.published]
    known = official.vision_shapes(variant)
    if extra := [key for key in state if key not in known]:
        raise UserError(
            "a pooling that this format has no place for",
            where=f"{config.name} as {name}",
            expected=f"the pooling of the variant, {variant.pooling}",
            found=", ".join(extra[:2]),
            fix="export the complete model: --format=stablehlo, onnx or litert",
        )
    return format_.closed(format_.from_official(state))


def detect(keys: Mapping[str, object], *, where: str, config: VisionConfig | None = None) -> str:
    """Returns the name of the format that the keys of a file are, of a variant's family or of any.

    Raises:
      UserError: none of them; the fix names the family that it is of, or a level that holds one.
    """
    families = FAMILIES if config is None else {config.family: FAMILIES[config.family]}
    for formats in families.values():
        for format_ in formats.values():
            if format_.holds(keys):
                return format_.name
    if any(".lora_" in key or "/lora_" in key for key in keys):
        raise locate.adapter_given(where, found="LoRA matrices alone")
    names = tuple(dict.fromkeys(name for formats in families.values() for name in formats))
    other = [family for family, formats in FAMILIES.items() if any(f.holds(keys) for f in formats.values())]
    what, fix = "not a checkpoint of a vision encoder", "give a checkpoint of the vision encoder"
    if config is not None and other:
        what = f"checkpoint of another family given for {config.name}"
        such = (next(name for name, own in VISION.items() if own.family == family) for family in other)
        fix = f"set the variant to one of that family, such as {' or '.join(such)}"
    elif below := [level for level in map(_level_of, keys) if level]:
        fix = f"give {' or '.join(f'{where}:{level}' for level in below[:4])}"
    elif any(key.startswith("params/encoder/") for key in keys):
        fix = "scripts/export.py --format=safetensors writes the encoder of a saved model"
    raise UserError(
        what,
        where=where,
        expected=f"the patch embedding of a format among {', '.join(names)}",
        found=f"one like {' or '.join(other)}" if other else ", ".join(list(keys)[:3]) or "no arrays",
        fix=fix,
    )


def _level_of(key: str) -> str:
    """Returns what precedes a patch embedding in a key, as `backbone` in `backbone.conv1.weight`."""
    parts = key.split(".")
    for i in range(1, len(parts)):
        alone = {".".join(parts[i:]): None}
        if any(format_.holds(alone) for formats in FAMILIES.values() for format_ in formats.values()):
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
      format_name: one of its family's; None to detect it from the keys.
      head_of: an encoder of the variant whose projection replaces the file's head.

    Returns:
      official key -> array of the file's type; text keys only if the file has them.

    Raises:
      UserError: an unreadable file, another variant, format or normalisation, or the list of all
        keys, shapes and values that are wrong.
    """
    where = str(path)
    arrays, metadata = load_arrays(path)
    arrays = {key: array for key, array in arrays.items() if not key.endswith(_COUNTERS)}
    detected = detect(arrays, where=where, config=config)
    _check_floats(arrays, where)
    if format_name not in (None, detected):
        raise UserError(
            "checkpoint of another format",
            where=where,
            expected=format_name or "",
            found=detected,
            fix=f"set the format to {detected}",
        )
    format_ = of(config, detected)
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
        mismatch.explain(format_, config, expected, found, _others(arrays, config, found), where=where)
    beside.check(pathlib.Path(path), config, metadata)
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
    """Returns the shapes in a file of this variant, with text or a mask token if the file has any of it."""
    shapes = official_shapes(variant, text=False)
    vision = shapes_of(format_.from_official(hollow(shapes)))
    if official.MASK_KEY in found:
        vision |= {official.MASK_KEY: (VISION[variant].width,)}
    if variant not in TEXT or format_.name == "timm":
        return vision, False
    both = shapes_of(format_.from_official(hollow(official_shapes(variant, text=True))))
    has_text = any(key in found for key in both.keys() - vision.keys())
    return (both if has_text else vision), has_text


def _others(
    arrays: Arrays, config: VisionConfig, found: Shapes
) -> Iterator[tuple[VisionConfig, Shapes, Shapes]]:
    """Yields the other variants whose formats a file could be of, with its shapes and theirs."""
    for name, other in VISION.items():
        format_ = next((f for f in FAMILIES[other.family].values() if f.holds(arrays)), None)
        if name != config.name and format_ is not None:
            own = found if other.family == config.family else shapes_of(format_.opened(arrays))
            yield other, own, _expected(format_, name, own)[0]


def _headless(format_: Format, entries: Mapping[str, Any]) -> dict[str, Any]:
    return {key: entry for key, entry in entries.items() if not key.startswith(format_.head)}
