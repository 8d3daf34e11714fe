"""The parameters of a drawn face."""

from __future__ import annotations

import dataclasses

Colour = tuple[float, float, float]  # red, green, blue in 0..255


@dataclasses.dataclass(frozen=True, kw_only=True)
class Face:
    """Everything that is drawn; a length of 1 is half the head's height."""

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
