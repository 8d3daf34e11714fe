"""Converts a Perception Encoder checkpoint from one layout to another.

  python scripts/convert.py --variant=PE-Core-L14-336 \\
      --src=PE-Core-L14-336.pt --src_format=official --dst=tower.safetensors --dst_format=softbio

Strict in both directions: every source key must be used and every target array filled, or all
that is wrong is told at once and nothing is written. Values are moved, never changed.
"""

import pathlib
from collections.abc import Sequence

import numpy as np
from absl import flags

from softbio_jax import command
from softbio_jax.errors import UserError
from softbio_jax.interop import formats, hub
from softbio_jax.interop.safe_load import save_arrays
from softbio_jax.models.config import vision_config

_NAMES = list(formats.FORMATS)
_SRC = flags.DEFINE_string(
    "src", None, "A .safetensors or .pt file, or a hub id such as facebook/PE-Core-L14-336.",
    required=True,
)  # fmt: skip
_SRC_FORMAT = flags.DEFINE_enum("src_format", None, _NAMES, "Its layout; told from its keys.")
_DST = flags.DEFINE_string("dst", None, "The .safetensors or .pt file to write.", required=True)
_DST_FORMAT = flags.DEFINE_enum("dst_format", None, _NAMES, "Its layout.", required=True)
_VARIANT = flags.DEFINE_string(
    "variant", None, "The variant, by its PE name or timm name.", required=True
)
_VISION_ONLY = flags.DEFINE_bool("vision_only", False, "Leave the text tower out.")


def main(argv: Sequence[str]) -> None:
    del argv
    config = vision_config(_VARIANT.value)
    destination = pathlib.Path(_DST.value)
    if destination.exists():
        raise UserError("the destination exists", where=str(destination), expected="a new name",
                        found="a file", fix="remove it or name another")  # fmt: skip
    source = hub.resolve(_SRC.value)
    state = formats.read(source, config=config, format_name=_SRC_FORMAT.value)
    if _VISION_ONLY.value:
        state = {key: array for key, array in state.items() if key.startswith("visual.")}
    _check_text(any(not key.startswith("visual.") for key in state), str(source))
    target = formats.FORMATS[_DST_FORMAT.value]
    parameters = sum(array.size for array in state.values())
    arrays = target.closed(target.from_official(state))
    del state  # what was copied on the way is not needed twice
    metadata = {"format": target.name, "variant": config.name}
    save_arrays(destination, arrays, metadata=metadata)
    types = ", ".join(sorted({np.dtype(array.dtype).name for array in arrays.values()}))
    print(f"{destination}: {config.name} as {target.name}, {len(arrays)} arrays,"
          f" {parameters:,} parameters, {types}")  # fmt: skip


def _check_text(has_text: bool, source: str) -> None:
    if _DST_FORMAT.value == "timm" and has_text:
        raise UserError("timm has no text tower", where=source, expected="a vision tower alone",
                        found="both towers", fix="add --vision_only")  # fmt: skip
    if _DST_FORMAT.value == "open_clip" and not has_text:
        raise UserError("open_clip needs both towers", where=source, expected="a text tower",
                        found="a vision tower alone", fix="take another --dst_format")  # fmt: skip


if __name__ == "__main__":
    command.run(main)
