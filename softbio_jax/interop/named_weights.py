"""Weights that depend only on a key's name, its shape and a seed.

Two implementations filled from this module hold the same numbers without a file passing between
them, so parity can be stored as outputs alone. The stream is Philox 4x64 keyed by SHA-256, read
as raw words: both are frozen definitions, unlike the distributions of `numpy.random.Generator`.
"""

import hashlib
import math
from collections.abc import Mapping

import numpy as np

# Uniform on [-1, 1) has standard deviation 1 / sqrt(3).
_UNIT = math.sqrt(3.0)
_MANTISSA = 1 << 23


def named_uniform(name: str, shape: tuple[int, ...], *, seed: int = 0) -> np.ndarray:
    """Uniform values on [-1, 1), a pure function of (name, shape, seed).

    Every value is an integer times 2^-23, so it is the same bit pattern on every machine.

    Args:
      name: any string, by convention the official checkpoint key.
      shape: the shape of the array.
      seed: chooses another set of values.

    Returns:
      float32 array of `shape`.
    """
    size = math.prod(shape)
    digest = hashlib.sha256(f"{seed}:{name}:{','.join(map(str, shape))}".encode()).digest()
    philox = np.random.Philox(key=int.from_bytes(digest[:16], "little"))
    words = philox.random_raw((size + 1) // 2).astype("<u8", copy=False).view("<u4")[:size]
    words >>= np.uint32(8)
    values = words.astype(np.float32)
    values -= np.float32(_MANTISSA)
    values *= np.float32(1.0 / _MANTISSA)
    return values.reshape(shape)


def named_weight(
    name: str, shape: tuple[int, ...], *, seed: int = 0, qk_gain: float = 3.0
) -> np.ndarray:
    """One parameter of an official Perception Encoder checkpoint, at a realistic scale.

    Kernels have torch's default deviations, 1 / sqrt(3 fan_in) and Xavier's for the fused
    projection, which keep float32 rounding from being amplified block by block; norm scales lie
    around 1, LayerScale around 0.1, biases around 0. The query and key rows of a block's fused
    projection are multiplied by `qk_gain`: with near-uniform attention a position bug would hide.
    The pool sees no rotary positions and keeps its scale; a sharp probe would amplify rounding.

    Args:
      name: official key, such as `visual.transformer.resblocks.0.attn.in_proj_weight`.
      shape: its shape in the official layout.
      seed: chooses another set of values.
      qk_gain: factor on the first two thirds of `in_proj_weight`.

    Returns:
      float32 array of `shape`.
    """
    values = named_uniform(name, shape, seed=seed)
    centre, deviation = _centre_and_deviation(name, shape)
    values *= np.float32(deviation * _UNIT)
    if centre:
        values += np.float32(centre)
    if "resblocks" in name and name.endswith("in_proj_weight"):
        values[: 2 * shape[0] // 3] *= np.float32(qk_gain)
    return values


def named_state(
    shapes: Mapping[str, tuple[int, ...]], *, seed: int = 0, qk_gain: float = 3.0
) -> dict[str, np.ndarray]:
    """Draws every parameter of a state dict.

    Args:
      shapes: official key -> shape.
      seed: chooses another set of values.
      qk_gain: see `named_weight`.

    Returns:
      official key -> float32 array.
    """
    return {
        name: named_weight(name, tuple(shape), seed=seed, qk_gain=qk_gain)
        for name, shape in shapes.items()
    }


def _centre_and_deviation(name: str, shape: tuple[int, ...]) -> tuple[float, float]:
    leaf = name.rsplit(".", 1)[-1]
    if leaf == "logit_scale":
        return math.log(100.0), 0.01
    if leaf == "gamma":
        return 0.1, 0.02
    if leaf in ("bias", "in_proj_bias"):
        return 0.0, 0.02
    if leaf == "weight" and len(shape) == 1:
        return 1.0, 0.1
    if leaf == "probe" or "token_embedding" in name:
        return 0.0, 1.0
    if leaf in ("positional_embedding", "class_embedding"):
        return 0.0, 0.3
    if leaf == "in_proj_weight":
        return 0.0, 1.0 / math.sqrt(2.0 * shape[1])
    # torch keeps kernels (out, in, ...); the two projections are (in, out).
    fan_in = shape[0] if leaf in ("proj", "text_projection") else math.prod(shape[1:])
    return 0.0, 1.0 / math.sqrt(3.0 * fan_in)
