"""The parameters of a drawn face, and those of them that a pretext task predicts."""

from __future__ import annotations

import dataclasses

import numpy as np

Colour = tuple[float, float, float]  # red, green, blue in 0..255


@dataclasses.dataclass(frozen=True, kw_only=True)
class Face:
    """The parameters of a drawing; a length of 1 is half the head's height."""

    # Pose: position and half the head's height in units of half the image, angles in radians.
    x: float = 0.0
    y: float = 0.0
    scale: float = 0.62
    tilt: float = 0.0
    yaw: float = 0.0
    # Head.
    head_width: float = 0.78
    jaw: float = 2.2  # exponent of the lower outline: 1.7 is pointed, 3 is square
    cheeks: float = 0.0
    neck: float = 0.45
    eye_line: float = 0.02
    eye_size: float = 0.17
    eye_spacing: float = 0.34
    iris: float = 0.55  # radius, in eye_size
    lashes: float = 0.3
    nose_length: float = 0.34
    nose_width: float = 0.13
    mouth_line: float = 0.58
    lips: float = 0.06
    brow_thickness: float = 0.05
    # Expression: 0 is neutral, 1 strong; eye_open and mouth_width are factors.
    brow_raise: float = 0.0
    brow_inner: float = 0.0
    eye_open: float = 1.0
    mouth_curve: float = 0.0
    mouth_open: float = 0.0
    mouth_width: float = 1.0
    teeth: float = 0.0
    nose_wrinkle: float = 0.0
    # Age marks, 0 to 1.
    wrinkles: float = 0.0
    folds: float = 0.0
    eye_bags: float = 0.0
    spots: float = 0.0
    # Hair: lengths reach from the crown (0) to the shoulders (1).
    hair_length: float = 0.2
    hair_volume: float = 0.1
    hairline: float = 0.5  # 0 low on the forehead, 1 bald on top
    part: float = 0.0
    beard: float = 0.0
    moustache: float = 0.0
    # Colours and light.
    skin: Colour = (224, 172, 140)
    hair: Colour = (60, 42, 30)
    beard_colour: Colour = (60, 42, 30)
    eyes: Colour = (90, 60, 40)
    lip_colour: Colour = (176, 84, 80)
    background: Colour = (150, 170, 190)
    backdrop: Colour = (110, 130, 160)
    clothes: Colour = (70, 80, 120)
    blush: float = 0.0
    glasses: float = 0.0  # 0 none, else the darkness of the frame
    earrings: float = 0.0
    light: float = 0.0  # direction of the light, radians from above
    contrast: float = 0.15  # how much darker the far side is
    brightness: float = 1.0
    warmth: float = 0.0
    blur: float = 0.0  # deviation in pixels
    noise: float = 3.0  # deviation in grey levels


# Parameter of Face -> its mean and standard deviation over 20,000 faces of the pretext. Colours are
# represented by their lightness, the mean of the channels.
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
    """Returns a face's standardised parameters, (value - mean) / deviation, (F,) float32 as FACTORS."""
    values = [getattr(face, name) for name in FACTORS]
    flat = [sum(value) / 3 if isinstance(value, tuple) else value for value in values]
    return (np.array(flat, np.float32) - _MEAN) / _DEVIATION
