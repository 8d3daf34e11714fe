"""Pretrained encoders: any format in, our own safetensors out."""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from softbio_jax.interop import formats, stacking
from softbio_jax.interop.official import OFFICIAL, without_mask
from softbio_jax.interop.reading.locate import resolve
from softbio_jax.interop.safe_load import save_arrays
from softbio_jax.models.config import VisionConfig
from softbio_jax.params import Tree, flatten, unflatten


def load_pretrained(
    source: str | pathlib.Path,
    *,
    config: VisionConfig,
    blocks: int = 0,
    tail: int = 0,
    dtype: Any = np.float32,
) -> Tree:
    """Reads the parameters of a vision encoder: `encoder`, and the config's `pool` and `proj`.

    A text encoder in the file is checked and ignored, as is a pooling or projection of the variant
    where the config has another pooling. What the variant has no weights of, a new pooling, is absent.

    Args:
      source: a `.safetensors` or `.pt` file in any format of its family, or a hub id.
      config: the variant that it must contain.
      blocks: number of first blocks that are kept; 0: all.
      tail: k, number of last blocks, of those kept, that go to `encoder/tail`.
      dtype: the floating type of every leaf.

    Raises:
      UserError: an unreadable file, another variant, or wrong keys, shapes or values.
    """
    state = formats.read(resolve(str(source)), config=config)
    vision = without_mask({key: value for key, value in state.items() if key.startswith("visual.")})
    arrays = {path: array.astype(dtype, copy=False) for path, array in OFFICIAL.forward(vision).items()}
    arrays = stacking.first(arrays, blocks) if blocks else arrays
    absent = [] if config.pooling == "attn" else ["pool/"]
    absent += [] if config.out_dim is not None else ["proj"]
    arrays = {path: array for path, array in arrays.items() if not path.startswith(tuple(absent))}
    return unflatten(stacking.stack(arrays, tail=tail))


def save_pretrained(
    path: str | pathlib.Path, params: Mapping[str, Any], *, variant: str, **notes: str
) -> None:
    """Writes an encoder in our format: safetensors with "/"-joined paths.

    Args:
      path: the `.safetensors` file, which appears only once complete.
      params: nested dict of arrays, with any tail.
      variant: the variant's name, for the metadata.
      notes: further metadata.
    """
    arrays = {key: np.asarray(value) for key, value in flatten(params).items()}
    arrays = stacking.stack(stacking.unstack(arrays))
    save_arrays(path, arrays, metadata={"format": "softbio", "variant": variant} | notes)
