"""From age, gender and emotion to the parameters of a face, with random variation.

Every cue varies independently, and people look older or younger than they are, so that
neighbouring age classes overlap and no single cue determines a label. Skin tone, colours, pose and
light depend on no label.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from softbio_jax.data.drawing.face import Colour, Face
from softbio_jax.data.drawing.pen import BLACK, WHITE, mix

_AGE_EDGES = (0, 3, 10, 20, 30, 40, 50, 60, 70, 90)
# Per emotion, in the order of softbio_jax.tasks.EMOTION: brow_raise, brow_inner, eye_open - 1,
# mouth_curve, mouth_open, mouth_width - 1, teeth, nose_wrinkle.
_EXPRESSIONS = np.array(
    [
        (1.1, 0.0, 0.50, 0.0, 0.95, -0.30, 0.0, 0.0),  # surprise
        (0.7, 0.9, 0.40, -0.6, 0.40, 0.05, 1.0, 0.0),  # fear
        (-0.5, -0.5, -0.45, -0.7, 0.15, 0.00, 0.4, 1.1),  # disgust
        (0.1, 0.0, -0.10, 1.0, 0.32, 0.20, 1.0, 0.0),  # happy
        (0.0, 1.0, -0.25, -0.9, 0.00, -0.10, 0.0, 0.0),  # sad
        (-0.7, -1.1, 0.10, -0.4, 0.18, -0.05, 0.9, 0.3),  # angry
        (0.0, 0.0, 0.00, 0.05, 0.00, 0.00, 0.0, 0.0),  # neutral
    ]
)
_EXPRESSION_SPREAD = np.array([0.18, 0.13, 0.08, 0.11, 0.05, 0.06, 0.15, 0.08])
_SKINS = ((246, 214, 192), (238, 196, 164), (214, 162, 122), (176, 120, 82), (128, 82, 56), (82, 52, 38))
_HAIRS = ((28, 22, 22), (62, 40, 28), (104, 68, 40), (156, 104, 56), (206, 164, 96), (142, 58, 34))
_EYES = ((64, 42, 30), (92, 62, 38), (86, 112, 70), (84, 126, 168), (110, 120, 126))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Style:
    """The look that distinguishes one set of images from another.

    Args:
      scale: mean of Face.scale, the head's height as a share of the image's.
      scale_spread: its standard deviation.
      tilt: standard deviation of the head's tilt, in radians.
      brightness, warmth: means of the same parameters of Face.
      blur: upper limit of the blur, in 64ths of the image's side.
      noise: upper limit of the noise, in grey levels.
    """

    scale: float = 0.82
    scale_spread: float = 0.03
    tilt: float = 0.06
    brightness: float = 1.0
    warmth: float = 0.0
    blur: float = 0.5
    noise: float = 7.0


def sample_face(*, age: int, gender: int, emotion: int, style: Style, rng: np.random.Generator) -> Face:
    """Samples the parameters of one face.

    Args:
      age, gender, emotion: classes in the order of softbio_jax.tasks.
      style: the look of the set.
      rng: the only source of randomness.
    """
    low, high = _AGE_EDGES[age : age + 2]
    years = rng.uniform(low, high)
    looks = max(years + rng.normal() * (0.3 + 0.03 * years), 0.0)  # the apparent age
    parts: dict[str, Any] = {}
    for build in (_shape, _marks, _hair):
        parts.update(build(looks, 1.0 if gender == 1 else -1.0, rng))
    parts.update(_expression(emotion, rng))
    parts.update(_surroundings(style, rng))
    colours = _colours(looks, gender == 1, rng)
    return Face(**parts, **colours)


def _unit(value: float) -> float:
    return min(max(value, 0.0), 1.0)


def _ramp(value: float, start: float, end: float) -> float:
    """Returns 0 up to start, 1 from end on, and a linear ramp between."""
    return _unit((value - start) / (end - start))


def _shape(looks: float, female: float, rng: np.random.Generator) -> dict[str, float]:
    """Proportions: children have wide heads, low and large eyes, short noses, small chins."""
    baby, child = math.exp(-looks / 2.5), math.exp(-looks / 11)
    grown = 1 - child
    sex = female * (0.35 + 0.65 * grown)  # the difference grows with age
    shrunk, widened = _ramp(looks, 40, 85), _ramp(looks, 35, 90)
    n = rng.standard_normal(14).tolist()
    return {
        "head_width": 0.76 + 0.1 * child + 0.04 * baby - 0.02 * sex + 0.025 * n[0],
        "jaw": max(2.3 - 0.32 * sex + 0.1 * n[1], 1.6),
        "cheeks": max(0.02 + 0.05 * child + 0.05 * baby + 0.02 * n[2], 0.0) + 0.08 * _ramp(looks, 45, 85),
        "neck": 0.42 - 0.1 * child - 0.06 * sex + 0.03 * n[3],
        "eye_line": 0.17 * child + 0.06 * baby + 0.015 * n[4],
        "eye_size": 0.185 + 0.05 * child + 0.02 * baby + 0.008 * sex - 0.02 * shrunk + 0.008 * n[5],
        "eye_spacing": 0.345 + 0.02 * child + 0.014 * n[6],
        "iris": 0.52 + 0.12 * child + 0.03 * n[7],
        "nose_length": 0.36 - 0.14 * child - 0.03 * baby + 0.05 * _ramp(looks, 40, 90) + 0.02 * n[8],
        "nose_width": max(0.125 - 0.02 * child - 0.012 * sex + 0.025 * widened + 0.012 * n[9], 0.07),
        "mouth_line": 0.585 + 0.03 * child + 0.015 * n[10],
        "lips": max(0.064 + 0.018 * sex - 0.028 * shrunk + 0.007 * n[11], 0.02),
        "brow_thickness": max(0.075 - 0.025 * child - 0.024 * sex + 0.008 * n[12], 0.015),
        "lashes": _unit(0.3 + 0.3 * sex + 0.1 * n[13]),
    }


def _marks(looks: float, female: float, rng: np.random.Generator) -> dict[str, float]:
    n = rng.standard_normal(4).tolist()
    return {
        "wrinkles": _unit(_ramp(looks, 27, 62) + 0.05 * n[0]),
        "folds": _unit(_ramp(looks, 18, 52) + 0.05 * n[1]),
        "eye_bags": _unit(_ramp(looks, 36, 72) + 0.06 * n[2]),
        "spots": _unit(_ramp(looks, 58, 85) + 0.1 * n[3]),
    }


def _hair(looks: float, female: float, rng: np.random.Generator) -> dict[str, float]:
    n = rng.standard_normal(3).tolist()
    u = rng.random(5).tolist()
    grown = _ramp(looks, 0.5, 5)
    usual = u[0] > (0.08 if female > 0 else 0.04)  # the rest have the other gender's usual length
    long_hair = usual == (female > 0)
    length = grown * (0.62 + 0.16 * n[0] if long_hair else 0.15 + 0.06 * n[0])
    recession = 0.0 if female > 0 else 0.55 * u[1] * _ramp(looks, 25, 70)
    adult = _ramp(looks, 16, 22)
    bearded = adult if female < 0 and u[2] < 0.45 else 0.0
    return {
        "hair_length": min(max(length, 0.0), 0.95),
        "hair_volume": max(0.03 + 0.085 * grown - 0.04 * _ramp(looks, 45, 85) + 0.02 * n[1], 0.012),
        "hairline": _unit(0.3 + 0.12 * n[2] + 0.35 * (1 - grown) + recession + 0.15 * _ramp(looks, 45, 85)),
        "part": 1.4 * (u[3] - 0.5),
        "beard": bearded * (0.15 + 0.85 * u[4]),
        "moustache": bearded * (0.2 + 0.8 * u[4]) if u[2] < 0.38 else 0.0,
        "earrings": 1.0 if female > 0 and looks > 14 and u[1] < 0.35 else 0.0,
    }


def _expression(emotion: int, rng: np.random.Generator) -> dict[str, float]:
    strength = rng.uniform(0.6, 1.15)
    values = strength * _EXPRESSIONS[emotion] + _EXPRESSION_SPREAD * rng.standard_normal(8)
    raised, inner, eyes, curve, opening, wide, teeth, nose = values.tolist()
    return {
        "brow_raise": raised,
        "brow_inner": inner,
        "eye_open": max(1 + eyes, 0.3),
        "mouth_curve": curve,
        "mouth_open": max(opening, 0.0),
        "mouth_width": max(1 + wide, 0.5),
        "teeth": _unit(teeth),
        "nose_wrinkle": max(nose, 0.0),
    }


def _surroundings(style: Style, rng: np.random.Generator) -> dict[str, float]:
    n = rng.standard_normal(7).tolist()
    u = rng.random(6).tolist()
    return {
        "x": 0.025 * n[0],
        "y": 0.04 + 0.025 * n[1],
        "scale": style.scale + style.scale_spread * n[2],
        "tilt": style.tilt * n[3],
        "yaw": min(max(0.06 * n[4], -0.25), 0.25),
        "light": 2 * math.pi * u[0],
        "contrast": 0.3 * u[1],
        "brightness": min(max(style.brightness + 0.1 * n[5], 0.65), 1.12),
        "warmth": style.warmth + 0.04 * n[6],
        "blur": style.blur * u[2],
        "noise": 1 + (style.noise - 1) * u[3],
        "glasses": 0.4 + 0.6 * u[5] if u[4] < 0.13 else 0.0,
    }


def _pick(palette: tuple[Colour, ...], rng: np.random.Generator) -> Colour:
    """Returns a colour between two neighbours of a palette."""
    place = rng.random() * (len(palette) - 1)
    return mix(palette[int(place)], palette[int(place) + 1], place % 1)


def _muted(red: float, green: float, blue: float) -> Colour:
    """Returns a colour halfway to the grey of its own lightness."""
    grey = (red + green + blue) / 3
    return mix((30 + 205 * grey,) * 3, (30 + 205 * red, 30 + 205 * green, 30 + 205 * blue), 0.5)


def _colours(looks: float, female: bool, rng: np.random.Generator) -> dict[str, Any]:
    skin, hair = _pick(_SKINS, rng), _pick(_HAIRS, rng)
    n = rng.standard_normal(2).tolist()
    grey = _ramp(looks + 4 * n[0], 38, 70)
    u = rng.random(11).tolist()
    silver = mix((150, 150, 154), WHITE, 0.7 * u[0])
    lips = mix(skin, (178, 62, 70), 0.42)
    if female:
        lips = mix(lips, (196, 40, 64), (0.75 if looks > 15 else 0.15) * u[10])
    return {
        "skin": skin,
        "hair": mix(hair, silver, grey),
        "beard_colour": mix(mix(hair, BLACK, 0.15), silver, min(grey * 1.2, 1)),
        "eyes": _pick(_EYES, rng),
        "lip_colour": lips,
        "background": _muted(u[1], u[2], u[3]),
        "backdrop": _muted(u[4], u[5], u[6]),
        "clothes": (220 * u[7], 220 * u[8], 220 * u[9]),
        "blush": _unit(0.3 + 0.25 * n[1] + 0.5 * math.exp(-looks / 6)),
    }
