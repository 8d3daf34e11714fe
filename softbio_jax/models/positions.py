"""Absolute positional embeddings at other grids."""

import jax
import jax.numpy as jnp

from softbio_jax.models.config import Resample

# For jax.image.resize: its name of the kernel and whether it is widened when shrinking.
_RESIZE: dict[Resample, tuple[str, bool]] = {"official": ("linear", False), "timm": ("cubic", True)}


def resample(
    table: jax.Array,
    *,
    stored: int,
    grid: tuple[int, int],
    class_token: bool,
    method: Resample = "official",
) -> jax.Array:
    """Returns the positional embedding for `grid`; the class token's row is kept as it is.

    "official" is bilinear without antialias, "timm" bicubic (a = -0.5) with it.

    Args:
      table: (class_token + stored^2, D).
      stored: rows (= columns) of the stored grid.
      grid: rows and columns wanted.
      class_token: whether the first row is the class token's.
      method: whose interpolation.

    Returns:
      (class_token + rows * columns, D).

    Source: perception_models `VisionTransformer._sample_abs_posemb` (torch's F.interpolate with
    align_corners=False); timm 1.0.31 `resample_abs_pos_embed`.
    """
    if grid == (stored, stored):
        return table
    first, patches = table[: int(class_token)], table[int(class_token) :]
    patches = patches.reshape(stored, stored, -1)
    kernel, antialias = _RESIZE[method]
    resized = jax.image.resize(
        patches, (*grid, patches.shape[-1]), method=kernel, antialias=antialias
    )
    return jnp.concatenate([first, resized.reshape(-1, patches.shape[-1])])
