"""Positions: absolute embeddings resampled to other grids, and two-dimensional rotation (RoPE)."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from softbio_jax.models.config import Resample, VisionConfig
from softbio_jax.models.families import dinov3

# jax.image.resize's method, and whether its kernel is widened when shrinking.
_RESIZE: dict[Resample, tuple[str, bool]] = {"official": ("linear", False), "timm": ("cubic", True)}
# What is added to the number of patches in the step between them: DINOv2's original adds a tenth.
_STEPS: dict[Resample, float] = {"dinov2": 0.1, "transformers": 0.0}
_CUBIC = -0.75  # a of torch's bicubic kernel without antialias
_BASE = 10_000.0


@functools.partial(jax.tree_util.register_dataclass, data_fields=("cos", "sin"), meta_fields=("reach",))
@dataclasses.dataclass(frozen=True)
class Rotation:
    """Rotary positions of q and k: cos and sin (N, head_dim) float32, and which channels turn together.

    Channel c of a head turns with c + reach where floor(c / reach) is even: with reach 1 neighbours,
    with head_dim / 2 the halves.
    """

    cos: jax.Array
    sin: jax.Array
    reach: int = 1


def rotation(config: VisionConfig, grid: tuple[int, int]) -> Rotation | None:
    """Returns the rotation of a variant's tokens on a grid of (rows, columns); None where it has none."""
    if not config.rotary:
        return None
    turn = turns(config, grid)
    reach = config.head_dim // 2 if config.rotary == "dinov3" else 1
    return Rotation(jnp.cos(turn), jnp.sin(turn), reach)


def turns(config: VisionConfig, grid: tuple[int, int]) -> np.ndarray:
    """Returns the angles of a variant with rotary positions: `angles` or `centred_angles`."""
    if config.rotary == "dinov3":
        return centred_angles(grid, config.head_dim, prefix=config.prefix)
    stored = config.grid if config.resample == "timm" else None
    return angles(grid, config.head_dim, class_token=config.class_token, rescale_to=stored)


def resample(
    table: jax.Array, *, stored: int, grid: tuple[int, int], class_token: bool, method: Resample = "official"
) -> jax.Array:
    """Returns the positional embedding for another grid; the class token's row is unchanged.

    "official" is bilinear without antialias, "timm" bicubic (a = -0.5) with it; "dinov2" and
    "transformers" are bicubic (a = -0.75) without, at steps of stored / (n + 0.1) and stored / n.

    Args:
      table: (class_token + stored^2, D).
      stored: rows (= columns) of the stored grid.
      grid: rows and columns of the result.
      class_token: whether the first row is the class token's.
      method: the interpolation.

    Returns:
      (class_token + rows * columns, D).

    Source: perception_models `VisionTransformer._sample_abs_posemb` (torch's F.interpolate with
    align_corners=False); timm 1.0.31 `resample_abs_pos_embed`; facebookresearch/dinov2
    `DinoVisionTransformer.interpolate_pos_encoding`, and transformers 5.23 `Dinov2Embeddings`.
    """
    if grid == (stored, stored):
        return table
    first, patches = table[: int(class_token)], table[int(class_token) :]
    patches = patches.reshape(stored, stored, -1)
    if method in _STEPS:
        rows, columns = (jnp.asarray(_cubic(stored, n, stored / (n + _STEPS[method]))) for n in grid)
        resized = jnp.einsum("ri,cj,ijd->rcd", rows, columns, patches, precision=jax.lax.Precision.HIGHEST)
    else:
        kernel, antialias = _RESIZE[method]
        resized = jax.image.resize(patches, (*grid, patches.shape[-1]), method=kernel, antialias=antialias)
    return jnp.concatenate([first, resized.reshape(-1, patches.shape[-1])])


def _cubic(stored: int, size: int, step: float) -> np.ndarray:
    """Returns the matrix (size, stored) of a cubic interpolation that repeats the outermost values.

    Output i is read at (i + 0.5) step - 0.5 between four values.
    """
    places = (np.arange(size) + 0.5) * step - 0.5
    matrix = np.zeros((size, stored))
    for offset in (-1, 0, 1, 2):
        index = np.floor(places).astype(int) + offset
        x = np.abs(places - index)
        near = ((_CUBIC + 2) * x - (_CUBIC + 3)) * x * x + 1
        far = ((_CUBIC * x - 5 * _CUBIC) * x + 8 * _CUBIC) * x - 4 * _CUBIC
        np.add.at(matrix, (np.arange(size), index.clip(0, stored - 1)), np.where(x <= 1, near, far))
    return matrix.astype(np.float32)


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


def centred_angles(grid: tuple[int, int], head_dim: int, *, prefix: int) -> np.ndarray:
    """Returns DINOv3's rotation angle of each token and channel, (N, head_dim) float32 in radians.

    A patch's centre is at 2 (p + 1/2) / n - 1 in (-1, 1), p of n rows or columns. With d = head_dim / 4,
    channel i < d turns by 2 pi y / 100^(i/d), channel d + i by 2 pi x / 100^(i/d), and the second half of
    the channels as the first. The `prefix` tokens before the patches turn by 0.

    Args:
      grid: rows and columns of patches.
      head_dim: channels per head, divisible by 4.
      prefix: the number of class and register tokens.

    Source: facebookresearch/dinov3 `dinov3/layers/rope_position_encoding.py`, with periods in float32 as
    of timm 1.0.31 and transformers 5.23.
    """
    rows, columns = grid
    periods = dinov3.periods(head_dim)

    def turn(n: int) -> np.ndarray:
        places = np.float32(2) * ((np.arange(n, dtype=np.float32) + np.float32(0.5)) / np.float32(n))
        return np.float32(2 * np.pi) * (places - np.float32(1))[:, None] / periods

    y = np.broadcast_to(turn(rows)[:, None], (rows, columns, len(periods)))
    x = np.broadcast_to(turn(columns)[None], y.shape)
    table = np.concatenate([y, x, y, x], axis=-1).reshape(rows * columns, head_dim)
    return np.concatenate([np.zeros((prefix, head_dim), np.float32), table])


def rotate(x: jax.Array, rotation: Rotation) -> jax.Array:
    """Turns each channel pair (a, b) of x into (a cos - b sin, b cos + a sin), in float32.

    Args:
      x: (B, N, K, head_dim).
      rotation: of N tokens.

    Returns:
      x's shape and type.
    """
    x32 = x.astype(jnp.float32)
    if rotation.reach == 1:
        pairs, axis = x32.reshape(*x.shape[:-1], -1, 2), x.ndim
        a, b = (jax.lax.index_in_dim(pairs, i, axis, keepdims=False) for i in (0, 1))
        turned = jnp.stack([-b, a], axis=axis).reshape(x.shape)
    else:  # the halves, without an axis more, of which LiteRT's kernels allow six
        a, b = jnp.split(x32, 2, axis=-1)
        turned = jnp.concatenate([-b, a], axis=-1)
    # Ranks are made equal by hand, here and elsewhere, for jax_numpy_rank_promotion="raise".
    tables = (rotation.cos, rotation.sin)
    cos, sin = (jax.lax.broadcast_to_rank(table[:, None], x.ndim) for table in tables)
    return (x32 * cos + turned * sin).astype(x.dtype)
