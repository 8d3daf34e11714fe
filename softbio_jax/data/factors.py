"""Drawing parameters as standardised regression targets, the pretext of the demo's tower."""

from __future__ import annotations

import numpy as np

from softbio_jax.data.face import Face

# Parameter of Face -> its mean and standard deviation over the pretext's faces, measured on 20,000
# of them. A colour counts by its lightness, the mean of its channels.
FACTORS: dict[str, tuple[float, float]] = {
    "x": (0.0, 0.0397),
    "y": (0.0596, 0.0401),
    "scale": (0.75, 0.0602),
    "tilt": (0.0, 0.129),
    "yaw": (0.0, 0.0894),
    "head_width": (0.782, 0.0471),
    "jaw": (2.3, 0.306),
    "eye_line": (0.0358, 0.0612),
    "eye_size": (0.169, 0.0235),
    "nose_length": (0.342, 0.0564),
    "nose_width": (0.127, 0.0196),
    "mouth_line": (0.59, 0.0172),
    "lips": (0.0524, 0.0176),
    "brow_thickness": (0.051, 0.0192),
    "lashes": (0.314, 0.269),
    "brow_raise": (0.0882, 0.562),
    "brow_inner": (0.0394, 0.628),
    "eye_open": (1.02, 0.294),
    "mouth_curve": (-0.182, 0.579),
    "mouth_open": (0.261, 0.274),
    "mouth_width": (0.987, 0.163),
    "nose_wrinkle": (0.198, 0.334),
    "wrinkles": (0.33, 0.35),
    "eye_bags": (0.331, 0.364),
    "hair_length": (0.341, 0.264),
    "hair_volume": (0.1, 0.0293),
    "hairline": (0.41, 0.185),
    "beard": (0.086, 0.223),
    "glasses": (0.0954, 0.249),
    "brightness": (0.996, 0.0902),
    "skin": (144, 50),
    "hair": (111, 49.8),
    "background": (133, 34.1),
}
_MEAN, _DEVIATION = np.array(list(FACTORS.values()), np.float32).T


def factors(face: Face) -> np.ndarray:
    """Standardises a face's parameters: (value - mean) / deviation.

    Args:
      face: what is drawn.

    Returns:
      (F,) float32, in the order of FACTORS, with mean 0 and deviation 1 over the pretext's faces.
    """
    values = [getattr(face, name) for name in FACTORS]
    flat = [sum(value) / 3 if isinstance(value, tuple) else value for value in values]
    return (np.array(flat, np.float32) - _MEAN) / _DEVIATION
