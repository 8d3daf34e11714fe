"""The parts of a drawn face: body, head, eyes, brows, nose, mouth, marks of age, accessories."""

from __future__ import annotations

import numpy as np

from softbio_jax.data.drawing.face import Face
from softbio_jax.data.drawing.pen import ARCH, BLACK, BOTH, SPAN, WHITE, Pen, band, mix, outline, oval, points


def behind(pen: Pen, face: Face) -> None:
    """The hair at the back of the head, down to its length."""
    if face.hair_length < 0.3:
        return
    width = face.head_width + 0.5 * face.hair_volume + 0.1
    end = -0.2 + 2.0 * face.hair_length
    shade = mix(face.hair, BLACK, 0.25)
    pen.fill(oval(0, -0.15, width, 0.85 + face.hair_volume), shade, on_face=False)
    flare = width * (1 + 0.12 * face.hair_length)
    right = np.array([(width, -0.2), (flare, 0.7 * end), (0.85 * flare, end)])
    left = right * (-1, 1)
    curtain = np.concatenate([left[:1], right, [(0, end + 0.08)], left[:0:-1]])
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
            x = np.array([0.5 * start + 0.3 * face.part, start * 0.9, start * 1.15]) * face.head_width
            strand = np.stack([x, [-0.98 - face.hair_volume * 0.6, -0.9, level + 0.06]], -1)
            pen.line(strand, light, 0.025, on_face=False)
    if face.hair_length > 0.3:
        end, edge = -0.2 + 2.0 * face.hair_length, face.head_width
        back = [(edge + 0.02, temple - 0.25), (edge + 0.5 * face.hair_volume + 0.1, -0.1)]
        tip = [(edge * 1.1 + 0.1, 0.75 * end), (edge * 0.95, end), (edge * 0.86, 0.5 * end)]
        front = [(edge * 0.84, -0.1), (edge * 0.7, temple - 0.45)]
        pen.fill(np.array(back + tip + front) * BOTH, face.hair, on_face=False)


def beard(pen: Pen, face: Face) -> None:
    """From stubble (a tint) to a full beard along the jaw."""
    if face.beard < 0.05:
        return
    colour = mix(face.skin, face.beard_colour, min(0.25 + 0.7 * face.beard, 0.92))
    lower = outline(face, 0.02 + 0.1 * max(face.beard - 0.5, 0))
    quarter = (len(lower) + 2) // 4
    jaw = lower[quarter + 1 : -quarter - 1]
    cheek, side = face.mouth_line - 0.18, 0.8 * face.head_width
    inner = np.array([(-side, 0.25), (-0.36, cheek), (0, cheek + 0.02), (0.36, cheek), (side, 0.25)])
    pen.fill(np.concatenate([jaw, inner]), colour, on_face=False)
    pen.fill(oval(0, face.mouth_line - 0.02, 0.27, 0.13), face.skin)


def moustache(pen: Pen, face: Face) -> None:
    """Two arcs between nose and lip."""
    if face.moustache < 0.05:
        return
    colour = mix(face.skin, face.beard_colour, min(0.3 + 0.65 * face.moustache, 0.92))
    top = face.mouth_line - 0.15 + 0.09 * SPAN**2
    pen.fill(band(0.27 * SPAN, top, top + 0.04 + 0.05 * ARCH), colour)


def body(pen: Pen, face: Face) -> None:
    """Neck, shoulders and ears."""
    shade = mix(face.skin, BLACK, 0.25)
    neck, width = face.neck, face.head_width
    right = np.array([(neck, 1.3), (1.35, 1.45), (2.0, 1.75), (2.2, 2.6)])
    shoulders = np.concatenate([(right * (-1, 1))[::-1], [(0, 1.5)], right])
    column = np.array([(-neck, 0.5), (neck, 0.5), (neck * 1.15, 1.36), (0, 1.62), (-neck * 1.15, 1.36)])
    pen.fill(shoulders, face.clothes, on_face=False)
    pen.fill(column, shade, on_face=False)
    middle = face.eye_line + 0.17
    pen.fill(oval(width, middle, 0.1, 0.2) * BOTH, mix(face.skin, BLACK, 0.12), on_face=False)


def head(pen: Pen, face: Face) -> None:
    """The head with a darker rim, and the blush of the cheeks."""
    shape = outline(face)
    pen.fill(shape, mix(face.skin, BLACK, 0.14), on_face=False)
    pen.fill(shape * (0.95, 0.965) + (0, -0.01), face.skin, on_face=False)
    if face.blush > 0.03:
        rosy = mix(face.skin, (226, 96, 92), 0.4 * face.blush)
        pen.fill(oval(0.5 * face.head_width, 0.38, 0.17, 0.12) * BOTH, rosy)


def eyes(pen: Pen, face: Face) -> None:
    """White, iris, pupil, glint, lids and lashes."""
    width = face.eye_size
    opening = width * 0.52 * face.eye_open
    x, y = face.eye_spacing, face.eye_line
    across = x + width * SPAN
    upper, lower = y - opening * ARCH, y + 0.75 * opening * ARCH
    socket = oval(x, y - 0.02, width * 1.3, width * 0.85)
    pen.fill(socket * BOTH, mix(face.skin, BLACK, 0.09))
    pen.fill(band(across, upper, lower) * BOTH, mix(WHITE, face.skin, 0.12))
    radius = min(face.iris * width, 0.9 * opening)
    centre = y - 0.08 * opening
    pen.fill(oval(x, centre, max(radius, 0.8 * face.iris * width), radius) * BOTH, face.eyes)
    pen.fill(oval(x, centre, 0.5 * radius, 0.5 * radius) * BOTH, BLACK)
    glint = oval(0.35 * radius, -0.4 * radius, 0.28 * radius, 0.28 * radius)
    pen.fill(glint + (np.array([[[-x]], [[x]]]) * (1, 0) + (0, centre)), WHITE)
    lid = mix(face.skin, BLACK, 0.5 + 0.5 * face.lashes)
    pen.line(points(across, upper) * BOTH, lid, 0.025 + 0.045 * face.lashes)
    pen.line(points(across, lower) * BOTH, mix(face.skin, BLACK, 0.3), 0.02)
    if face.lashes > 0.5:  # a wing at the outer corner
        wing = np.array([(x + 0.9 * width, y), (x + 1.25 * width, y - 0.35 * width)])
        pen.line(wing * BOTH, lid, 0.045)


def brows(pen: Pen, face: Face) -> None:
    """Tapered arcs; the inner end goes up (sad, afraid) or down (angry)."""
    width = 1.25 * face.eye_size
    height = face.eye_line - 0.29 - 0.16 * face.brow_raise
    inner = 0.22 * face.brow_inner * (1 - SPAN) / 2
    middle = height - inner - 0.05 * ARCH
    half = 0.5 * face.brow_thickness * (1.1 - 0.45 * (SPAN + 1))
    shape = band(face.eye_spacing + width * SPAN, middle - half, middle + half)
    pen.fill(shape * BOTH, mix(face.hair, BLACK, 0.25))


def nose(pen: Pen, face: Face) -> None:
    """Bridge, wings, nostrils, and the wrinkles of disgust."""
    tip, width = face.eye_line + face.nose_length, face.nose_width
    shade = mix(face.skin, BLACK, 0.2)
    bridge = np.array([(0.5 * width, face.eye_line + 0.08), (0.65 * width, tip - 0.1)])
    pen.line(bridge * BOTH, mix(face.skin, BLACK, 0.1), 0.03)
    pen.fill(oval(0, tip - 0.02, width, 0.5 * width), mix(face.skin, (220, 110, 90), 0.14))
    pen.line(points(width * SPAN, tip + 0.45 * width * ARCH - 0.03), shade, 0.03)
    pen.fill(oval(0.5 * width, tip, 0.25 * width, 0.16 * width) * BOTH, mix(face.skin, BLACK, 0.55))
    if face.nose_wrinkle > 0.1:
        dark = mix(face.skin, BLACK, 0.45 * min(face.nose_wrinkle, 1))
        for level in (0.02, 0.1):
            pen.line(points(0.12 * SPAN, face.eye_line + level - 0.05 * ARCH), dark, 0.03)
        wing = np.array([(width, tip - 0.12), (width + 0.07, tip), (width + 0.12, tip + 0.12)])
        pen.line(wing * BOTH, dark, 0.035)


def mouth(pen: Pen, face: Face) -> None:
    """Lips around an opening with teeth and tongue; curved up or down."""
    line, width = face.mouth_line, 0.33 * face.mouth_width
    across = width * SPAN
    middle = line - 0.23 * face.mouth_curve * (SPAN**2 - 0.5)
    opening = 0.46 * face.mouth_open * ARCH
    top, bottom = middle - 0.4 * opening - 0.05 * face.nose_wrinkle * ARCH, middle + 0.6 * opening
    lips = face.lips
    pen.fill(band(across * 1.06, top - lips * ARCH, bottom + 1.3 * lips * ARCH), face.lip_colour)
    if face.mouth_open > 0.08:
        pen.fill(band(across, top, bottom), (92, 28, 34))
        if face.mouth_open > 0.45:
            pen.fill(band(0.7 * across, bottom - 0.4 * opening, bottom), (196, 84, 88))
        if face.teeth > 0.2:
            edge = top + opening * (0.3 + 0.5 * face.teeth * (1 - min(face.mouth_open, 0.6)))
            pen.fill(band(across * 0.92, top, edge), WHITE)
    else:
        pen.line(points(across * 1.05, middle), mix(face.lip_colour, BLACK, 0.6), 0.03)


def age_marks(pen: Pen, face: Face, rng: np.random.Generator) -> None:
    """Forehead lines, crow's feet, folds beside the mouth, bags below the eyes, spots."""
    depth = 0.8 - sum(face.skin) / 3 / 640  # dark skin needs more to show the same

    def ink(strength: float) -> tuple[float, float, float]:
        return mix(face.skin, BLACK, depth * min(strength, 1))

    x, y, width = face.eye_spacing, face.eye_line, face.eye_size
    if face.eye_bags > 0.03:
        bag = points(x + 0.9 * width * SPAN, y + 0.1 + 0.75 * width * ARCH)
        pen.line(bag * BOTH, ink(0.8 * face.eye_bags), 0.045)
    if face.folds > 0.03:
        start, corner = face.nose_width + 0.04, 0.33 * face.mouth_width + 0.06
        top, end = y + face.nose_length - 0.06, face.mouth_line - 0.02 + 0.1 * face.folds
        middle = (0.5 * (start + corner) + 0.04, face.mouth_line - 0.14)
        fold = np.array([(start, top), middle, (corner, end)])
        pen.line(fold * BOTH, ink(0.8 * face.folds), 0.045)
    if face.wrinkles > 0.03:
        dark = ink(face.wrinkles)
        for level in (-0.42, -0.52, -0.62):
            pen.line(points(0.45 * SPAN, level - 0.03 * ARCH), dark, 0.035)
        edge = x + 1.25 * width
        feet = np.array([[(edge, y + d), (edge + 0.13, y + 2.4 * d)] for d in (-0.05, 0.0, 0.05)])
        pen.line(np.concatenate([feet, feet * (-1, 1)]), dark, 0.025)
    if face.spots > 0.1:
        for across, up, radius in rng.random((int(7 * face.spots) + 1, 3)).tolist():
            spot = oval(1.1 * (across - 0.5), -0.7 + 1.3 * up, 0.03 + 0.03 * radius, 0.03)
            pen.fill(spot, mix(face.skin, (120, 80, 60), 0.35))


def accessories(pen: Pen, face: Face) -> None:
    """Glasses and earrings."""
    if face.glasses > 0:
        frame = mix((150, 140, 130), BLACK, face.glasses)
        ring = oval(face.eye_spacing, face.eye_line, 0.27, 0.23)
        pen.line(np.concatenate([ring, ring[:1]]) * BOTH, frame, 0.045)
        edge, level = face.eye_spacing - 0.27, face.eye_line - 0.03
        pen.line(np.array([(edge, level), (0, level - 0.03), (-edge, level)]), frame, 0.045)
    if face.earrings > 0:
        drop = oval(face.head_width + 0.05, face.eye_line + 0.42, 0.05, 0.07)
        pen.fill(drop * BOTH, (238, 204, 96), on_face=False)
