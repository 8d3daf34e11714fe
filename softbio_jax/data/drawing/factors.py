"""Drawing parameters as standardised regression targets, the pretext of the demo's tower."""

from __future__ import annotations

import numpy as np

from softbio_jax.data.drawing.face import Face

# Parameter of Face -> its mean and standard deviation over the pretext's faces, measured on 20,000
# of them. A colour counts by its lightness, the mean of its channels.
FACTORS: dict[str, tuple[float, float]] = {
    "scale": (0.83, 0.0452),
    "tilt": (0.0, 0.0697),
    "yaw": (0.0, 0.0599),
    "head_width": (0.784, 0.0476),
    "jaw": (2.3, 0.301),
    "eye_line": (0.0402, 0.0626),
    "eye_size": (0.193, 0.024),
    "nose_length": (0.338, 0.058),
    "nose_width": (0.126, 0.0197),
    "mouth_line": (0.591, 0.0173),
    "lips": (0.0583, 0.0191),
    "brow_thickness": (0.0697, 0.024),
    "lashes": (0.313, 0.265),
    "brow_raise": (0.088, 0.548),
    "brow_inner": (0.0392, 0.621),
    "eye_open": (1.02, 0.291),
    "mouth_curve": (-0.194, 0.542),
    "mouth_open": (0.256, 0.273),
    "mouth_width": (0.975, 0.139),
    "nose_wrinkle": (0.198, 0.334),
    "wrinkles": (0.398, 0.405),
    "folds": (0.5, 0.42),
    "eye_bags": (0.299, 0.361),
    "hair_length": (0.341, 0.264),
    "hairline": (0.411, 0.185),
    "beard": (0.086, 0.223),
    "glasses": (0.0954, 0.249),
    "skin": (144, 50),
    "hair": (114, 50.1),
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
