"""Augmentation on the device, inside the jitted step: flip, colour jitter, affine, erasing.

Each example's randomness depends only on `jax.random.fold_in(key, index)`, so its pixels do not
depend on the rest of the batch or on the number of hosts and devices.
"""

import dataclasses
import functools
from typing import Annotated

import jax
import jax.numpy as jnp

from softbio_jax.models.forward import normalize
from softbio_jax.ranges import Ordered, Range, Share, check_fields

Strength = Annotated[float, Range(0, 100)]
Area = Annotated[float, Range(0, 1, above=True)]
_Factor = Annotated[float, Range(0, 1000, above=True)]
Factors = Annotated[tuple[_Factor, _Factor], Ordered()]


@dataclasses.dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Strength of each augmentation; zero disables one."""

    flip: Share = 0.5  # probability of a horizontal flip
    brightness: Strength = 0.2  # the factor is uniform in [max(0, 1 - x), 1 + x]
    contrast: Strength = 0.2  # likewise
    saturation: Strength = 0.2  # likewise
    degrees: Annotated[float, Range(0, 180)] = 10.0  # the rotation is uniform in [-degrees, degrees]
    translate: Share = 0.05  # the shift, in whole pixels, is uniform up to this share of width and height
    scale: Factors = (0.9, 1.1)  # range of the zoom factor
    erase: Share = 0.5  # probability that one rectangle is erased
    erase_area: Annotated[tuple[Area, Area], Ordered()] = (0.02, 0.2)  # range of its share of the image
    erase_ratio: Factors = (0.3, 3.3)  # range of its height / width, uniform in the logarithm

    def __post_init__(self) -> None:
        check_fields(self, "augment")

    @property
    def jitters(self) -> bool:
        """Whether any colour changes."""
        return bool(self.brightness or self.contrast or self.saturation)

    @property
    def warps(self) -> bool:
        """Whether any pixel moves, apart from flips."""
        return bool(self.degrees or self.translate or self.scale != (1.0, 1.0))


OFF = AugmentConfig(
    flip=0, brightness=0, contrast=0, saturation=0, degrees=0, translate=0, scale=(1, 1), erase=0
)


_GREY = (0.5, 0.5, 0.5)


def augment(
    images: jax.Array,
    key: jax.Array,
    index: jax.Array,
    *,
    config: AugmentConfig,
    mean: tuple[float, float, float] = _GREY,
) -> jax.Array:
    """Augments and normalises a batch: flip, jitter, affine, normalise, erase, in this order.

    The order and the 8-bit arithmetic of the jitter are those of torchvision's transforms on PIL
    images. Deviations: the affine map is bilinear (torchvision's default is nearest) and keeps
    fractional values; an erasing rectangle too large for the image is cut to fit, not redrawn.

    Args:
      images: uint8 (B, H, W, 3).
      key: one PRNG key per run, or one per example (B,).
      index: integer (B,), the example's position in the global sample stream.
      config: strengths; `OFF` gives exactly `normalize(images)`.
      mean: the encoder's mean of pixels in [0, 1], which erased ones have.

    Returns:
      float32 (B, H, W, 3) in [-1, 1]; black (-1) beyond the affine map's edge, 2 mean - 1 where erased.

    Source: torchvision RandomHorizontalFlip, ColorJitter, RandomAffine, RandomErasing.
    """
    blank = 0.0 if mean == _GREY else jnp.array([2 * value - 1 for value in mean], jnp.float32)[None, None]
    one = functools.partial(_augment_one, config=config, blank=blank)
    return jax.vmap(one, in_axes=(0, 0 if key.ndim else None, 0))(images, key, index)


def augment_views(
    images: jax.Array,
    views: jax.Array,
    sets: jax.Array,
    rows: jax.Array,
    *,
    seed: int,
    config: AugmentConfig,
    mean: tuple[float, float, float] = _GREY,
) -> jax.Array:
    """Returns the given view of each image, which depends on neither the step nor the other examples.

    View 0 is the plain image. View v >= 1 is augmented with a key folded from seed, v, data set and row.

    Args:
      images: uint8 (B, H, W, 3).
      views: integer (B,), v.
      sets: uint32 (B,), a number of each example's data set, see `set_number`.
      rows: integer (B,), its row in the set.
      seed: of the run.
      config: strengths.
      mean: see `augment`.

    Returns:
      float32 (B, H, W, 3), as `augment`.
    """

    def key_of(view: jax.Array, number: jax.Array) -> jax.Array:
        return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed + 2), view), number)

    keys = jax.vmap(key_of)(views, sets.astype(jnp.uint32))
    augmented = augment(images, keys, rows, config=config, mean=mean)
    return jnp.where((views == 0)[:, None, None, None], normalize(images), augmented)


def set_number(fingerprint: str) -> int:
    """Returns 32 bits of a data set's fingerprint."""
    return int(fingerprint[:8], 16)


def _augment_one(
    image: jax.Array, key: jax.Array, index: jax.Array, *, config: AugmentConfig, blank: jax.Array | float
) -> jax.Array:
    # One key per stage, always: disabling one augmentation leaves the other draws unchanged.
    flip_key, jitter_key, warp_key, erase_key = jax.random.split(
        jax.random.fold_in(key, index.astype(jnp.uint32)), 4
    )
    if config.flip:
        image = jnp.where(jax.random.bernoulli(flip_key, config.flip), image[:, ::-1], image)
    if config.jitters:
        image = color_jitter(image, *_draw_jitter(jitter_key, config))
    if config.warps:
        degrees, shift, scale = _draw_affine(warp_key, image.shape, config)
        image = affine(image, _short(inverse_map(degrees, scale), image.shape), shift)
    image = normalize(image)
    if config.erase:
        image = jnp.where(_draw_rectangle(erase_key, image.shape, config), blank, image)
    return image


def color_jitter(image: jax.Array, factors: jax.Array, order: jax.Array) -> jax.Array:
    """Brightness, contrast and saturation in the given order, in PIL's 8-bit arithmetic.

    Each is a blend x -> clip(r + f (x - r)) with a reference r: black for brightness, the mean
    grey level for contrast, each pixel's own grey for saturation.

    Args:
      image: uint8 (H, W, 3).
      factors: (3,), of brightness, contrast and saturation; 1 changes nothing.
      order: int (3,), a permutation of 0, 1, 2.

    Returns:
      uint8 (H, W, 3).
    """

    def step(turn: jax.Array, image: jax.Array) -> jax.Array:
        kind = order[turn]
        rgb = image.astype(jnp.int32)
        # ITU-R 601 luma in 16-bit fixed point, as PIL's "L" mode. Integers make the mean
        # independent of the order of summation, hence of the batch layout.
        luma = (rgb[..., 0] * 19595 + rgb[..., 1] * 38470 + rgb[..., 2] * 7471 + 0x8000) >> 16
        mean = (2 * luma.sum() + luma.size) // (2 * luma.size)
        grey = jnp.where(kind == 0, 0, jnp.where(kind == 1, mean, luma))[..., None]
        blend = grey.astype(jnp.float32) + factors[kind] * (rgb - grey).astype(jnp.float32)
        return jnp.clip(blend, 0, 255).astype(jnp.uint8)

    # A loop, not three unrolled steps: its result is stored, while XLA would fuse unrolled steps
    # into the affine map's lookup and recompute the jitter for each neighbour.
    return jax.lax.fori_loop(0, 3, step, image)


def inverse_map(degrees: jax.Array, scale: jax.Array) -> jax.Array:
    """Returns (cos, sin) / scale, (2,), of a clockwise rotation and a zoom, as `affine` takes it."""
    radians = jnp.deg2rad(degrees)
    return jnp.stack([jnp.cos(radians), jnp.sin(radians)]) / scale


def affine(image: jax.Array, inverse: jax.Array, shift: jax.Array) -> jax.Array:
    """Rotates clockwise and zooms about the centre, then shifts; bilinear, black outside.

    Args:
      image: uint8 (H, W, 3).
      inverse: (2,), see `inverse_map`.
      shift: (2,), right and down, in pixels.

    Returns:
      float32 (H, W, 3) in 0..255.
    """
    height, width, _ = image.shape
    cos, sin = inverse
    center_x, center_y = (width - 1) / 2, (height - 1) / 2
    x = (jnp.arange(width) - center_x - shift[0])[None, :]
    y = (jnp.arange(height) - center_y - shift[1])[:, None]
    # Everything beyond one pixel outside is black, so the coordinates are clipped there.
    source_x = jnp.clip(cos * x + sin * y + center_x, -1, width)
    source_y = jnp.clip(cos * y - sin * x + center_y, -1, height)
    left = jnp.minimum(jnp.floor(source_x), width - 1)
    top = jnp.minimum(jnp.floor(source_y), height - 1)
    right_share, lower_share = (source_x - left)[..., None], (source_y - top)[..., None]

    # Gathers dominate the cost, so each pixel's four neighbours are stored side by side first:
    # one lookup per pixel instead of twelve.
    framed = jnp.pad(image, ((1, 1), (1, 1), (0, 0)))
    corners = (framed[:-1, :-1], framed[:-1, 1:], framed[1:, :-1], framed[1:, 1:])
    quads = jnp.concatenate(corners, axis=-1).reshape(-1, 12)
    place = (top.astype(jnp.int32) + 1) * (width + 1) + left.astype(jnp.int32) + 1
    found = quads.at[place].get(mode="promise_in_bounds").astype(jnp.float32)
    upper = found[..., 0:3] * (1 - right_share) + found[..., 3:6] * right_share
    lower = found[..., 6:9] * (1 - right_share) + found[..., 9:12] * right_share
    return upper * (1 - lower_share) + lower * lower_share


def _draw_jitter(key: jax.Array, config: AugmentConfig) -> tuple[jax.Array, jax.Array]:
    factor_key, order_key = jax.random.split(key)
    strength = jnp.array([config.brightness, config.contrast, config.saturation])
    low = jnp.maximum(0.0, 1 - strength)
    factors = low + jax.random.uniform(factor_key, (3,)) * (1 + strength - low)
    # With 12 fractional bits a blend is exact in float32. Otherwise its truncation to 8 bits would depend on
    # whether XLA fuses product and sum, which differs with the number of devices.
    factors = jnp.round(4096 * factors) / 4096
    return factors, jnp.argsort(jax.random.uniform(order_key, (3,)))


def _draw_affine(
    key: jax.Array, shape: tuple[int, ...], config: AugmentConfig
) -> tuple[jax.Array, jax.Array, jax.Array]:
    turn, zoom, right, down = jax.random.uniform(key, (4,))
    limit = config.translate * jnp.array([shape[1], shape[0]])
    shift = jnp.round((2 * jnp.stack([right, down]) - 1) * limit)
    low, high = config.scale
    return (2 * turn - 1) * config.degrees, shift, low + zoom * (high - low)


def _short(inverse: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Returns an inverse map with so few digits that `affine`'s coordinates are exact in float32.

    XLA computes them more than once, with products fused or not. Two results on either side of an integer
    would give one the neighbours and one the share, and a pixel the colour of the next; how often depends on
    the number of devices. Of float32's 24 bits one is for the centre's half pixel, and bit_length + 1 are for
    coordinates of up to twice the side.
    """
    steps = 2.0 ** (22 - max(shape[:2]).bit_length())
    return jnp.round(steps * inverse) / steps


def _draw_rectangle(key: jax.Array, shape: tuple[int, ...], config: AugmentConfig) -> jax.Array:
    """Returns the erased pixels, (H, W, 1) bool, empty with probability 1 - config.erase."""
    height, width, _ = shape
    chance, area, ratio, top, left = jax.random.uniform(key, (5,))
    low, high = config.erase_area
    pixels = (low + area * (high - low)) * height * width
    low, high = jnp.log(jnp.array(config.erase_ratio))
    aspect = jnp.exp(low + ratio * (high - low))
    tall = jnp.clip(jnp.round(jnp.sqrt(pixels * aspect)), 1, height)
    wide = jnp.clip(jnp.round(jnp.sqrt(pixels / aspect)), 1, width)
    top, left = jnp.floor(top * (height - tall + 1)), jnp.floor(left * (width - wide + 1))
    y, x = jnp.arange(height)[:, None], jnp.arange(width)[None, :]
    inside = (y >= top) & (y < top + tall) & (x >= left) & (x < left + wide)
    return (inside & (chance < config.erase))[..., None]
