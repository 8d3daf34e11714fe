"""Converts a checkpoint of an encoder, or what training added to one, between formats.

  python scripts/convert.py --variant=PE-Core-L14-336 \\
      --src=PE-Core-L14-336.pt --src_format=official --dst=encoder.safetensors --dst_format=softbio
  python scripts/convert.py --variant=PE-Core-L14-336 \\
      --src=adapter/ --src_format=peft --base=encoder.safetensors \\
      --dst=merged.safetensors --dst_format=timm

official, timm, open_clip, transformers and softbio hold encoders; docs/backbones.md says which
family has which. peft and thesis hold adapters, heads and
trained weights: they convert to each other, to softbio, and, folded in with --base, to an encoder.
The contents of a softbio file say which of the two it is. The thesis' flat files of LP, AP and FT
are read as --src=FILE.pt and written as --dst=FILE.pt.

The conversion is strict: every source key must be used and every target array filled, otherwise all
problems are reported at once and nothing is written. Values are moved unchanged, except by --base.
"""

import pathlib
from collections.abc import Sequence

import numpy as np
from absl import flags

from softbio_jax import command, files
from softbio_jax.console import Console
from softbio_jax.errors import UserError
from softbio_jax.interop import adapter_files, formats, safe_load
from softbio_jax.interop.adapter_files import ADAPTER_FORMATS
from softbio_jax.interop.peft_parts import folder
from softbio_jax.interop.reading import locate
from softbio_jax.models.config import VisionConfig, vision_config

_ADAPTERS = [name for name in ADAPTER_FORMATS if name not in formats.NAMES]
_NAMES = [*formats.NAMES, *_ADAPTERS]
_SRC = flags.DEFINE_string(
    "src",
    None,
    "A .safetensors or .pt file (FILE:ema: one of its levels), the .index.json of several, a folder of"
    " weights or of an adapter, or a hub id such as facebook/PE-Core-L14-336.",
    required=True,
)
_SRC_FORMAT = flags.DEFINE_enum(
    "src_format",
    None,
    _NAMES,
    "Its format; that of an encoder is found from its keys, peft from adapter_config.json.",
)
_DST = flags.DEFINE_string(
    "dst", None, "The .safetensors or .pt file, or the adapter's folder, to write.", required=True
)
_DST_FORMAT = flags.DEFINE_enum("dst_format", None, _NAMES, "Its format.", required=True)
_VARIANT = flags.DEFINE_string(
    "variant", None, "The variant, by its name here, timm's or the hub's.", required=True
)
_BASE = flags.DEFINE_string("base", None, "Adapters: the encoder to fold them into, in any format.")
_HEAD_OF = flags.DEFINE_string(
    "head_of", None, "Encoders: drop the head, and take the projection of this encoder of the variant."
)
_TOWER = flags.DEFINE_enum(
    "tower", None, ["vision", "text"], "peft: the encoder of official names without visual., if in doubt."
)
_VISION_ONLY = flags.DEFINE_bool("vision_only", False, "Convert only the vision encoder: no text, no heads.")


def main(argv: Sequence[str]) -> None:
    del argv
    config, destination = vision_config(_VARIANT.value), pathlib.Path(_DST.value)
    files.check_new(destination)
    source = pathlib.Path(_SRC.value)
    name = _SRC_FORMAT.value or _adapter_format(source)
    if name in _ADAPTERS or (source.is_file() and adapter_files.is_ours(source)):
        if _HEAD_OF.value:
            raise UserError("adapters hold no head of an encoder", where="--head_of", fix="drop --head_of")
        _adapters(source, destination, config, name=name or "softbio")
        return
    for flag, wanted, fix in (
        ("--dst_format", _DST_FORMAT.value in _ADAPTERS, "scripts/export.py writes a run's adapters"),
        ("--base", _BASE.value, _fix_of_base()),
        ("--tower", _TOWER.value, "drop --tower"),
    ):
        if wanted:
            where, expected = f"{flag} with {source}", f"a source of {', '.join(ADAPTER_FORMATS)} adapters"
            raise UserError("an encoder holds no adapters", where=where, expected=expected, fix=fix)
    path = locate.resolve(_SRC.value)
    head_of = locate.resolve(_HEAD_OF.value) if _HEAD_OF.value else None
    state = formats.read(path, config=config, format_name=_SRC_FORMAT.value, head_of=head_of)
    _write_encoder(_vision(state) if _VISION_ONLY.value else state, destination, config, source=str(path))


def _adapter_format(source: pathlib.Path) -> str | None:
    """Returns peft for what PEFT saved; an encoder's format is found from its keys."""
    return "peft" if folder.is_adapter(source) or folder.is_adapter_on_hub(_SRC.value) else None


def _fix_of_base() -> str:
    exchanged = f"exchange them: --src={_BASE.value} --base={_SRC.value}"
    return exchanged if _BASE.value and _is_adapter(_BASE.value) else "drop --base"


def _is_adapter(source: str) -> bool:
    path = pathlib.Path(source)
    ours = path.is_file() and adapter_files.is_ours(path)
    return ours or folder.is_adapter(path) or folder.is_adapter_on_hub(source)


def _adapters(source: pathlib.Path, destination: pathlib.Path, config: VisionConfig, *, name: str) -> None:
    if _BASE.value and _is_adapter(_BASE.value):
        fix = f"give the encoder that {_SRC.value} was trained on"
        raise locate.adapter_given(_BASE.value, where="--base", found="an adapter", fix=fix)
    source = folder.resolve(source) if name == "peft" else source
    checkpoint = adapter_files.read(source, config, name, tower=_TOWER.value)
    if _VISION_ONLY.value:
        checkpoint = adapter_files.without_heads(checkpoint)
    heads = ", ".join(task.name for task in adapter_files.tasks_of(checkpoint))
    if _BASE.value:
        if heads:
            found, fix = f"heads of {heads}", "add --vision_only"
            raise UserError("an encoder has no heads", where=str(source), found=found, fix=fix)
        base = formats.read(locate.resolve(_BASE.value), config=config)
        # A text encoder that the adapters leave alone is kept wherever the format has a place for it.
        if _VISION_ONLY.value or (_DST_FORMAT.value == "timm" and not checkpoint.adapter.text().layers):
            base = _vision(base)
        merged = adapter_files.into_tower(checkpoint, base, console=Console())
        _write_encoder(merged, destination, config, source=str(source))
        return
    if _DST_FORMAT.value not in ADAPTER_FORMATS:
        fix = f"add --base=ENCODER, or --dst_format={'|'.join(ADAPTER_FORMATS)}"
        raise UserError("adapters without their encoder", where=str(source), fix=fix)
    adapter_files.write(destination, checkpoint, config, _DST_FORMAT.value)
    print(
        f"{destination}: {config.name} adapters as {_DST_FORMAT.value}, "
        f"{len(checkpoint.adapter.layers)} layers, heads: {heads or 'none'}"
    )


def _vision(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {key: array for key, array in state.items() if key.startswith("visual.")}


def _write_encoder(
    state: dict[str, np.ndarray], destination: pathlib.Path, config: VisionConfig, *, source: str
) -> None:
    has_text = any(not key.startswith("visual.") for key in state)
    if _DST_FORMAT.value == "timm" and has_text:
        found, fix = "both encoders", "add --vision_only"
        raise UserError("timm has no text encoder", where=source, found=found, fix=fix)
    if _DST_FORMAT.value == "open_clip" and not has_text:
        found, fix = "only a vision encoder", "choose another --dst_format"
        raise UserError("open_clip needs both encoders", where=source, found=found, fix=fix)
    target = formats.of(config, _DST_FORMAT.value)
    parameters = sum(array.size for array in state.values())
    arrays = target.closed(target.from_official(state))
    state.clear()  # frees what was copied
    metadata = {"format": target.name, "variant": config.name}
    safe_load.save_arrays(destination, arrays, metadata=metadata)
    types = ", ".join(sorted({np.dtype(array.dtype).name for array in arrays.values()}))
    print(
        f"{destination}: {config.name} as {target.name}, {len(arrays)} arrays,"
        f" {parameters:,} parameters, {types}"
    )


if __name__ == "__main__":
    command.run(main)
