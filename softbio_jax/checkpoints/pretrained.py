"""Pretrained towers: any format in, our own safetensors out."""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from softbio_jax.interop import formats, stacking
from softbio_jax.interop.official import OFFICIAL
from softbio_jax.interop.safe_load import resolve, save_arrays
from softbio_jax.models.config import VisionConfig
from softbio_jax.params import Tree, flatten, unflatten


def load_pretrained(
    source: str | pathlib.Path, *, config: VisionConfig, tail: int = 0, dtype: Any = np.float32
) -> Tree:
    """Reads a vision tower's parameters from a checkpoint of any known format.

    A text tower in the file is checked and left out.

    Args:
      source: a `.safetensors` or `.pt` file (official, timm, open_clip or our own; told from its
        keys), or a hub id.
      config: the variant it must hold.
      tail: k, how many of the last blocks go to `encoder/tail`.
      dtype: the floating type of every leaf.

    Returns:
      Nested dict with `encoder`, and `pool` and `proj` where the variant has them.

    Raises:
      UserError: unreadable, another variant, or any key, shape or value wrong.
    """
    state = formats.read(resolve(str(source)), config=config)
    vision = {key: value for key, value in state.items() if key.startswith("visual.")}
    arrays = {path: array.astype(dtype, copy=False) for path, array in OFFICIAL.forward(vision).items()}
    return unflatten(stacking.stack(arrays, tail=tail))


def save_pretrained(
    path: str | pathlib.Path, params: Mapping[str, Any], *, variant: str, **notes: str
) -> None:
    """Writes a tower in our own format: safetensors with "/"-joined paths.

    Args:
      path: the `.safetensors` file; it appears only once it is whole.
      params: nested dict of arrays, with any tail.
      variant: the variant's name, kept in the metadata.
      notes: further metadata.
    """
    arrays = {key: np.asarray(value) for key, value in flatten(params).items()}
    arrays = stacking.stack(stacking.unstack(arrays))
    save_arrays(path, arrays, metadata={"format": "softbio", "variant": variant} | notes)
