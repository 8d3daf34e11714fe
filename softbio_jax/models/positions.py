"""Absolute positional embeddings at other grids."""

import jax
import jax.numpy as jnp


def resample(
    table: jax.Array, *, stored: int, grid: tuple[int, int], class_token: bool
) -> jax.Array:
    """Returns the positional embedding for `grid`, bilinear without antialias.

    The class token's row is kept as it is.

    Args:
      table: (class_token + stored^2, D).
      stored: rows (= columns) of the stored grid.
      grid: rows and columns wanted.
      class_token: whether the first row is the class token's.

    Returns:
      (class_token + rows * columns, D).

    Source: perception_models `VisionTransformer._sample_abs_posemb` (torch's F.interpolate with
    align_corners=False); jax.image.resize agrees with it only with antialias=False.
    """
    if grid == (stored, stored):
        return table
    first, patches = table[: int(class_token)], table[int(class_token) :]
    patches = patches.reshape(stored, stored, -1)
    resized = jax.image.resize(
        patches, (*grid, patches.shape[-1]), method="linear", antialias=False
    )
    return jnp.concatenate([first, resized.reshape(-1, patches.shape[-1])])
