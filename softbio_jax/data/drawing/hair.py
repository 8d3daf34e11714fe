"""Hair and beard of a drawn face."""

from __future__ import annotations

import numpy as np

from softbio_jax.data.drawing.face import Face
from softbio_jax.data.drawing.pen import (
    ARCH,
    BLACK,
    BOTH,
    SPAN,
    WHITE,
    Pen,
    band,
    mix,
    outline,
    oval,
    points,
)


def behind(pen: Pen, face: Face) -> None:
    """The hair at the back of the head, down to its length."""
    if face.hair_length < 0.3:
        return
    width = face.head_width + 0.5 * face.hair_volume + 0.1
    end = -0.2 + 2.0 * face.hair_length
    shade = mix(face.hair, BLACK, 0.25)
    pen.fill(oval(0, -0.15, width, 0.85 + face.hair_volume), shade, on_face=False)
    flare = width * (1 + 0.12 * face.hair_length)
    curtain = np.array([
        (-width, -0.2), (width, -0.2), (flare, 0.7 * end), (0.85 * flare, end),
        (0, end + 0.08), (-0.85 * flare, end), (-flare, 0.7 * end),
    ])  # fmt: skip
    pen.fill(curtain, shade, on_face=False)


def in_front(pen: Pen, face: Face) -> None:
    """The cap between the crown and the hairline, with strands, and locks beside the face."""
    if face.hair_volume < 0.01:
        return
    outer = outline(face, face.hair_volume)
    quarter = (len(outer) + 2) // 4
    # The upper half of the grown outline, from the right temple over the crown to the left one.
    crown = np.concatenate([outer[:quarter][::-1], outer[-quarter:][::-1]])
    temple = crown[0, 1] + 0.02
    inner_width = face.head_width * 0.96
    bald = max(face.hairline - 0.75, 0) * 4
    level = -0.42 - 0.55 * face.hairline
    lift = np.abs(SPAN - 0.9 * face.part)  # a parting pulls the hairline up on one side
    hairline = level + (temple - level) * SPAN**6 + 0.16 * (lift - 0.5) * (1 - bald) * ARCH**0.5
    inside = points(inner_width * SPAN, np.maximum(hairline, -0.995))
    pen.fill(np.concatenate([crown, inside]), face.hair, on_face=False)
    if bald < 0.5:
        light = mix(face.hair, WHITE, 0.1)
        for start in (-0.55, 0.0, 0.5):
            x = (
                np.array([0.5 * start + 0.3 * face.part, start * 0.9, start * 1.15])
                * face.head_width
            )
            strand = np.stack([x, [-0.98 - face.hair_volume * 0.6, -0.9, level + 0.06]], -1)
            pen.line(strand, light, 0.025, on_face=False)
    if face.hair_length > 0.3:
        end = -0.2 + 2.0 * face.hair_length
        edge = face.head_width
        lock = np.array([
            (edge + 0.02, temple - 0.25), (edge + 0.5 * face.hair_volume + 0.1, -0.1),
            (edge * 1.1 + 0.1, 0.75 * end), (edge * 0.95, end), (edge * 0.86, 0.5 * end),
            (edge * 0.84, -0.1), (edge * 0.7, temple - 0.45),
        ])  # fmt: skip
        pen.fill(lock * BOTH, face.hair, on_face=False)


def beard(pen: Pen, face: Face) -> None:
    """From stubble (a tint) to a full beard along the jaw."""
    if face.beard < 0.05:
        return
    colour = mix(face.skin, face.beard_colour, min(0.25 + 0.7 * face.beard, 0.92))
    lower = outline(face, 0.02 + 0.1 * max(face.beard - 0.5, 0))
    quarter = (len(lower) + 2) // 4
    jaw = lower[quarter + 1 : -quarter - 1]
    cheek = face.mouth_line - 0.18
    inner = np.array([
        (-0.8 * face.head_width, 0.25), (-0.36, cheek), (0, cheek + 0.02), (0.36, cheek),
        (0.8 * face.head_width, 0.25),
    ])  # fmt: skip
    pen.fill(np.concatenate([jaw, inner]), colour, on_face=False)
    pen.fill(oval(0, face.mouth_line - 0.02, 0.27, 0.13), face.skin)


def moustache(pen: Pen, face: Face) -> None:
    """Two arcs between nose and lip."""
    if face.moustache < 0.05:
        return
    colour = mix(face.skin, face.beard_colour, min(0.3 + 0.65 * face.moustache, 0.92))
    top = face.mouth_line - 0.15 + 0.09 * SPAN**2
    pen.fill(band(0.27 * SPAN, top, top + 0.04 + 0.05 * ARCH), colour)
