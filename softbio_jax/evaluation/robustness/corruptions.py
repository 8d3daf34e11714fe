"""Image corruptions at five strengths, on the device: blur, JPEG, noise, low light and others.

Every corruption maps uint8 images (B, H, W, 3) to uint8 images of the same shape. Lengths are relative to
the side, so that a strength means the same at every image size. Masks and sunglasses are drawn
where a centred face crop has the mouth and the eyes.
"""

import functools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from softbio_jax.data.augment import affine, inverse_map

STRENGTHS = 5

# Standard deviation in pixels at a side of 224; quality and deviation as published.
_BLUR = (2.0, 3.0, 4.0, 6.0, 9.0)
_QUALITY = (25, 18, 15, 10, 7)
_NOISE = (0.08, 0.12, 0.18, 0.26, 0.38)
_STOPS = (1.0, 2.0, 3.0, 4.0, 5.0)  # of exposure
_DEGREES = (5.0, 10.0, 20.0, 30.0, 45.0)
_DIVISOR = (2, 3, 4, 6, 8)  # of the side
_MASK_TOP = (0.82, 0.74, 0.66, 0.58, 0.5)  # as shares of the height
_LENS = (0.06, 0.085, 0.11, 0.14, 0.18)  # half-axis of a lens, as a share of the width
_MASK_COLOUR, _LENS_COLOUR = (150, 190, 210), (20, 20, 24)

# Luminance and chrominance tables of JPEG (ITU-T T.81, annex K).
_LUMINANCE = """
16 11 10 16 24 40 51 61 12 12 14 19 26 58 60 55 14 13 16 24 40 57 69 56 14 17 22 29 51 87 80 62
18 22 37 56 68 109 103 77 24 35 55 64 81 104 113 92 49 64 78 87 103 121 120 101 72 92 95 98 112 100 103 99
"""
_CHROMINANCE = """
17 18 24 47 99 99 99 99 18 21 26 66 99 99 99 99 24 26 56 99 99 99 99 99 47 66 99 99 99 99 99 99
99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99
"""


@functools.partial(jax.jit, static_argnames="name")
def corrupt(
    images: jax.Array, example: jax.Array, strength: jax.Array, key: jax.Array, *, name: str
) -> jax.Array:
    """Corrupts a batch; each example's randomness depends only on the key and its index.

    Args:
      images: uint8 (B, H, W, 3).
      example: integer (B,), the examples' indices.
      strength: integer (), 1 to `STRENGTHS`; may be traced, so that one program serves all.
      key: a PRNG key.
      name: one of `CORRUPTIONS`.

    Source: Hendrycks and Dietterich, Benchmarking Neural Network Robustness to Common Corruptions and
    Perturbations, ICLR 2019, for the kinds, five strengths each, and the values of noise and JPEG.
    """
    one = functools.partial(CORRUPTIONS[name], step=strength - 1)

    def apply(image: jax.Array, index: jax.Array) -> jax.Array:
        found = one(image, key=jax.random.fold_in(key, index.astype(jnp.uint32)))
        return jnp.clip(jnp.round(found), 0, 255).astype(jnp.uint8)

    return jax.vmap(apply)(images, example)


def blur(image: jax.Array, *, step: jax.Array, key: jax.Array) -> jax.Array:
    """Gaussian blur; at the border the kernel is cut and renormalised."""
    del key
    height, width, _ = image.shape
    sigma = jnp.array(_BLUR)[step] * height / 224

    def kernel(size: int) -> jax.Array:
        place = jnp.arange(size)
        weights = jnp.exp(-0.5 * ((place[:, None] - place[None, :]) / sigma) ** 2)
        return weights / weights.sum(axis=1, keepdims=True)

    return jnp.einsum("yi,xj,ijc->yxc", kernel(height), kernel(width), image.astype(jnp.float32))


def jpeg(image: jax.Array, *, step: jax.Array, key: jax.Array) -> jax.Array:
    """JPEG with 4:2:0 chroma: blocks' cosine transforms, quantised as libjpeg does, and back."""
    del key
    height, width, _ = image.shape
    padded = jnp.pad(image, ((0, -height % 16), (0, -width % 16), (0, 0)), mode="edge").astype(jnp.float32)
    to_ycc = jnp.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])
    ycc = jnp.round(padded @ to_ycc.T) - jnp.array([128.0, 0.0, 0.0])
    quality = jnp.array(_QUALITY)[step]
    scale = jnp.where(quality < 50, 5000 // quality, 200 - 2 * quality)

    def quantised(plane: jax.Array, table: str) -> jax.Array:
        steps = jnp.array([int(word) for word in table.split()], jnp.int32).reshape(8, 8)
        steps = jnp.clip((steps * scale + 50) // 100, 1, 255).astype(jnp.float32)
        rows, columns = plane.shape
        blocks = plane.reshape(rows // 8, 8, columns // 8, 8)
        waves = jnp.einsum("ui,yixj,vj->yuxv", _COSINES, blocks, _COSINES)
        waves = jnp.round(waves / steps[None, :, None, :]) * steps[None, :, None, :]
        return jnp.einsum("ui,yuxv,vj->yixj", _COSINES, waves, _COSINES).reshape(rows, columns)

    def halved(plane: jax.Array) -> jax.Array:
        rows, columns = plane.shape
        return plane.reshape(rows // 2, 2, columns // 2, 2).mean((1, 3))

    luma = quantised(ycc[..., 0], _LUMINANCE) + 128
    chroma = [quantised(halved(ycc[..., c]), _CHROMINANCE) for c in (1, 2)]
    blue, red = (jax.image.resize(plane, luma.shape, "linear") for plane in chroma)
    rgb = jnp.stack([luma + 1.402 * red, luma - 0.344136 * blue - 0.714136 * red, luma + 1.772 * blue], -1)
    return rgb[:height, :width]


def noise(image: jax.Array, *, step: jax.Array, key: jax.Array) -> jax.Array:
    """Independent Gaussian noise on every channel."""
    return image + 255 * jnp.array(_NOISE)[step] * jax.random.normal(key, image.shape)


def low_light(image: jax.Array, *, step: jax.Array, key: jax.Array) -> jax.Array:
    """Exposure reduced by whole stops, in linear light (sRGB transfer function, IEC 61966-2-1)."""
    del key
    encoded = image / 255.0
    linear = jnp.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    linear = linear * 2.0 ** -jnp.array(_STOPS)[step]
    return 255 * jnp.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def mask(image: jax.Array, *, step: jax.Array, key: jax.Array) -> jax.Array:
    """A face mask from the chin up to the mouth, the nose and, at the greatest strength, the cheeks."""
    del key
    x, y = _places(image)
    top = jnp.array(_MASK_TOP)[step] + 0.03 * jnp.cos(jnp.pi * (x - 0.5))
    half = 0.36 - 0.16 * jnp.clip((y - 0.75) / 0.25, 0, 1)
    return jnp.where(((y >= top) & (jnp.abs(x - 0.5) <= half))[..., None], jnp.array(_MASK_COLOUR), image)


def sunglasses(image: jax.Array, *, step: jax.Array, key: jax.Array) -> jax.Array:
    """Two dark lenses and a bridge."""
    del key
    x, y = _places(image)
    size = jnp.array(_LENS)[step]
    away = jnp.abs(x - 0.5)
    lenses = ((away - 0.18) / size) ** 2 + ((y - 0.46) / (0.8 * size)) ** 2 <= 1
    bridge = (away <= 0.18) & (jnp.abs(y - 0.44) <= 0.012)
    return jnp.where((lenses | bridge)[..., None], jnp.array(_LENS_COLOUR), image)


def rotation(image: jax.Array, *, step: jax.Array, key: jax.Array) -> jax.Array:
    """A rotation about the centre, to either side; black beyond the edge."""
    sign = jnp.where(jax.random.bernoulli(key), 1.0, -1.0)
    inverse = inverse_map(sign * jnp.array(_DEGREES)[step], jnp.float32(1))
    return affine(image, inverse, jnp.zeros(2))


def low_resolution(image: jax.Array, *, step: jax.Array, key: jax.Array) -> jax.Array:
    """A smaller image by averaging areas, and back by linear interpolation."""
    del key
    height, width, _ = image.shape
    down_up = [jnp.array(_resamplers(size))[step] for size in (height, width)]
    return jnp.einsum("yi,xj,ijc->yxc", *down_up, image.astype(jnp.float32))


CORRUPTIONS: Mapping[str, Callable[..., jax.Array]] = {
    "blur": blur,
    "JPEG": jpeg,
    "noise": noise,
    "low light": low_light,
    "mask": mask,
    "sunglasses": sunglasses,
    "rotation": rotation,
    "low resolution": low_resolution,
}

_COSINES = np.sqrt(np.where(np.arange(8) == 0, 1, 2) / 8)[:, None] * np.cos(
    np.pi * np.arange(8)[:, None] * (2 * np.arange(8)[None, :] + 1) / 16
)


def _places(image: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the middle of each pixel, x (1, W) and y (H, 1), as shares of width and height."""
    height, width, _ = image.shape
    return (jnp.arange(width)[None, :] + 0.5) / width, (jnp.arange(height)[:, None] + 0.5) / height


@functools.cache
def _resamplers(size: int) -> np.ndarray:
    """Returns the linear maps (5, S, S) of a row to its version at S / divisor pixels and back."""
    found = []
    for divisor in _DIVISOR:
        small = max(1, round(size / divisor))
        edges = np.arange(small + 1) * size / small
        pixel = np.arange(size)
        overlap = np.minimum(edges[1:, None], pixel + 1) - np.maximum(edges[:-1, None], pixel)
        down = np.maximum(overlap, 0) * small / size  # (s, S)
        centre = np.clip((pixel + 0.5) * small / size - 0.5, 0, small - 1)
        up = np.maximum(0, 1 - np.abs(centre[:, None] - np.arange(small)))  # (S, s)
        found.append(up @ down)
    return np.stack(found).astype(np.float32)
