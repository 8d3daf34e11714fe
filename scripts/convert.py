"""Converts a Perception Encoder checkpoint, or what training added to one, between layouts.

  python scripts/convert.py --variant=PE-Core-L14-336 \\
      --src=PE-Core-L14-336.pt --src_format=official --dst=tower.safetensors --dst_format=softbio
  python scripts/convert.py --variant=PE-Core-L14-336 \\
      --src=adapter/ --src_format=peft --base=tower.safetensors \\
      --dst=merged.safetensors --dst_format=timm

official, timm, open_clip and softbio are towers; peft and thesis are adapters, heads and trained
weights, which go to each other, to softbio, and with --base, folded in, to a whole tower. A
softbio file of adapters is told from its contents; the thesis' flat files of LP, AP and FT are
read and written as --src=FILE.pt and --dst=FILE.pt.

Strict in both directions: every source key must be used and every target array filled, or all
that is wrong is told at once and nothing is written. Values are moved, never changed, except by
--base, which folds.
"""

import pathlib
from collections.abc import Sequence

import numpy as np
from absl import flags

from softbio_jax import command
from softbio_jax.errors import UserError
from softbio_jax.interop import adapter_files, formats, safe_load
from softbio_jax.interop.safe_load import save_arrays
from softbio_jax.models.config import VisionConfig, vision_config

_ADAPTERS = ("peft", "thesis")
_NAMES = [*formats.FORMATS, *_ADAPTERS]
_SRC = flags.DEFINE_string(
    "src",
    None,
    "A .safetensors or .pt file, an adapter's folder, or a hub id such as facebook/PE-Core-L14-336.",
    required=True,
)
_SRC_FORMAT = flags.DEFINE_enum("src_format", None, _NAMES, "Its layout; a tower's is told from its keys.")
_DST = flags.DEFINE_string(
    "dst", None, "What to write: a .safetensors or .pt file, or an adapter's folder.", required=True
)
_DST_FORMAT = flags.DEFINE_enum("dst_format", None, _NAMES, "Its layout.", required=True)
_VARIANT = flags.DEFINE_string("variant", None, "The variant, by its PE name or timm name.", required=True)
_BASE = flags.DEFINE_string("base", None, "Adapters: the tower to fold them into, of any layout.")
_VISION_ONLY = flags.DEFINE_bool(
    "vision_only", False, "Leave out what is not the vision tower's: the text tower, heads."
)


def main(argv: Sequence[str]) -> None:
    del argv
    config = vision_config(_VARIANT.value)
    destination = pathlib.Path(_DST.value)
    if destination.exists():
        raise UserError(
            "the destination exists",
            where=str(destination),
            expected="a new name",
            found="something there",
            fix="remove it or name another",
        )
    source = pathlib.Path(_SRC.value)
    if _SRC_FORMAT.value in _ADAPTERS or (source.is_file() and adapter_files.is_ours(source)):
        _adapters(source, destination, config)
    elif _DST_FORMAT.value in _ADAPTERS:
        raise UserError(
            "a tower holds no adapters",
            where=str(source),
            expected="a source of peft, thesis or softbio adapters",
            found="a tower",
            fix="scripts/export.py writes a run's adapters",
        )
    elif _BASE.value:
        raise UserError(
            "nothing to fold into a tower",
            where="--base",
            expected="a source of peft, thesis or softbio adapters",
            found="a tower",
            fix="drop --base",
        )
    else:
        source = safe_load.resolve(_SRC.value)
        state = formats.read(source, config=config, format_name=_SRC_FORMAT.value)
        if _VISION_ONLY.value:
            state = _vision(state)
        _write_tower(state, destination, config, source=str(source))


def _adapters(source: pathlib.Path, destination: pathlib.Path, config: VisionConfig) -> None:
    layout = _SRC_FORMAT.value or "softbio"
    checkpoint = adapter_files.read(source, config, layout)
    if _VISION_ONLY.value:
        checkpoint = adapter_files.without_heads(checkpoint)
    if _BASE.value:
        if heads := adapter_files.tasks_of(checkpoint):
            raise UserError(
                "a tower has no heads",
                where=str(source),
                expected="adapters alone",
                found=f"heads of {', '.join(task.name for task in heads)}",
                fix="add --vision_only",
            )
        base = _vision(formats.read(safe_load.resolve(_BASE.value), config=config))
        merged = adapter_files.into_tower(checkpoint, base)
        _write_tower(merged, destination, config, source=str(source))
        return
    if _DST_FORMAT.value not in adapter_files.LAYOUTS:
        raise UserError(
            "adapters alone are no tower",
            where=str(source),
            expected="--base, the tower they belong to",
            found="none",
            fix=f"add --base, or --dst_format={'|'.join(adapter_files.LAYOUTS)}",
        )
    adapter_files.write(destination, checkpoint, config, _DST_FORMAT.value)
    names = ", ".join(task.name for task in adapter_files.tasks_of(checkpoint)) or "none"
    print(
        f"{destination}: {config.name} adapters as {_DST_FORMAT.value},"
        f" {len(checkpoint.adapter.layers)} layers, heads: {names}"
    )


def _vision(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {key: array for key, array in state.items() if key.startswith("visual.")}


def _write_tower(
    state: dict[str, np.ndarray], destination: pathlib.Path, config: VisionConfig, *, source: str
) -> None:
    _check_text(any(not key.startswith("visual.") for key in state), source)
    target = formats.FORMATS[_DST_FORMAT.value]
    parameters = sum(array.size for array in state.values())
    arrays = target.closed(target.from_official(state))
    state.clear()  # what was copied on the way is not needed twice
    metadata = {"format": target.name, "variant": config.name}
    save_arrays(destination, arrays, metadata=metadata)
    types = ", ".join(sorted({np.dtype(array.dtype).name for array in arrays.values()}))
    print(
        f"{destination}: {config.name} as {target.name}, {len(arrays)} arrays,"
        f" {parameters:,} parameters, {types}"
    )


def _check_text(has_text: bool, source: str) -> None:
    if _DST_FORMAT.value == "timm" and has_text:
        raise UserError(
            "timm has no text tower",
            where=source,
            expected="a vision tower alone",
            found="both towers",
            fix="add --vision_only",
        )
    if _DST_FORMAT.value == "open_clip" and not has_text:
        raise UserError(
            "open_clip needs both towers",
            where=source,
            expected="a text tower",
            found="a vision tower alone",
            fix="take another --dst_format",
        )


if __name__ == "__main__":
    command.run(main)
