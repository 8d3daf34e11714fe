"""Positions: absolute embeddings resampled to other grids, and two-dimensional rotation (RoPE)."""

import jax
import jax.numpy as jnp
import numpy as np

from softbio_jax.models.config import Resample

# jax.image.resize's method, and whether its kernel is widened when shrinking.
_RESIZE: dict[Resample, tuple[str, bool]] = {"official": ("linear", False), "timm": ("cubic", True)}
_BASE = 10_000.0


def resample(
    table: jax.Array, *, stored: int, grid: tuple[int, int], class_token: bool, method: Resample = "official"
) -> jax.Array:
    """Returns the positional embedding for another grid; the class token's row is unchanged.

    "official" is bilinear without antialias, "timm" bicubic (a = -0.5) with it.

    Args:
      table: (class_token + stored^2, D).
      stored: rows (= columns) of the stored grid.
      grid: rows and columns of the result.
      class_token: whether the first row is the class token's.
      method: the interpolation.

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
    resized = jax.image.resize(patches, (*grid, patches.shape[-1]), method=kernel, antialias=antialias)
    return jnp.concatenate([first, resized.reshape(-1, patches.shape[-1])])


def angles(
    grid: tuple[int, int], head_dim: int, *, class_token: bool, rescale_to: int | None = None
) -> np.ndarray:
    """Returns the rotation angle of each token and channel, (N, head_dim) float32 in radians.

    With d = head_dim / 2 channels per axis, f_i = 10000^(-2i/d), each repeated for the pair
    (2i, 2i+1); the first half of the channels turns with x, the second with y. With a class token,
    the patches count from 1 and its own row, the first, is 0. Positions are integers; with
    rescale_to = g, position p of n becomes p g / n.

    Args:
      grid: rows and columns of patches.
      head_dim: channels per head, divisible by 4.
      class_token: whether a class token comes first.
      rescale_to: rows (= columns) of the stored grid, or None for integer positions.

    Source: perception_models `core/vision_encoder/rope.py`, `Rope2D`; the rescaling is timm's
    `ref_feat_shape`.
    """
    rows, columns = grid
    axis = head_dim // 2
    # float32 throughout: the reference's table is float32 whatever the weights' type.
    exponents = np.arange(0, axis, 2, dtype=np.float32) / np.float32(axis)
    frequencies = (np.float32(1) / np.float32(_BASE) ** exponents).astype(np.float32)

    def turn(n: int) -> np.ndarray:
        places = np.arange(n, dtype=np.float32) + np.float32(class_token)
        if rescale_to is not None:
            places = places / np.float32(n) * np.float32(rescale_to)
        return np.repeat(places[:, None] * frequencies, 2, axis=-1)

    x = np.broadcast_to(turn(columns)[None], (rows, columns, axis))
    y = np.broadcast_to(turn(rows)[:, None], (rows, columns, axis))
    table = np.concatenate([x, y], axis=-1).reshape(rows * columns, head_dim)
    if class_token:
        table = np.concatenate([np.zeros((1, head_dim), np.float32), table])
    return table


def rotate(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    """Turns each channel pair (a, b) of x into (a cos - b sin, b cos + a sin), in float32.

    Args:
      x: (B, N, K, head_dim).
      cos: (N, head_dim) float32; sin alike.

    Returns:
      x's shape and type.
    """
    pairs = x.astype(jnp.float32).reshape(*x.shape[:-1], -1, 2)
    turned = jnp.stack([-pairs[..., 1], pairs[..., 0]], axis=-1).reshape(x.shape)
    x32 = pairs.reshape(x.shape)
    # Ranks are made equal by hand, here and elsewhere, for jax_numpy_rank_promotion="raise".
    cos, sin = (jax.lax.broadcast_to_rank(table[:, None], x.ndim) for table in (cos, sin))
    return (x32 * cos + turned * sin).astype(x.dtype)
