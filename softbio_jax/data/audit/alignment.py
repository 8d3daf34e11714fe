"""Lays one image over another and measures whether their details agree.

Faces of different people share what is large: an oval, two dark eyes. Copies share what is small. So
the details of two images are aligned by an affine map (the inverse compositional algorithm of Baker and
Matthews, "Lucas-Kanade 20 years on", IJCV 2004, from 16 to 64 pixels), and correlated where they overlap.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from softbio_jax.data.audit import maps as maps_lib
from softbio_jax.data.audit.details import COARSE, FINE, SIDES, Details

# Steps at 16, 32 and 64 pixels, and the least correlation for the next level. What both images show is
# determined anew before each group of steps. Among real faces half of the candidates that are no copies
# end at the first level, nine of ten at the second.
_STEPS = ((2, 4), (4,), (2,))
_LEAST = (0.75, 0.68, 0.6)
# From this similarity on, the map found at 32 pixels stays as it is. Steps at 64 pixels cost as much as
# all others, and would only raise the similarity of what is a copy already.
_CLEAR = 0.93
_LEAST_OVERLAP = 0.4  # a map that leaves less, or collapses the image, is no copy
_DAMPING = 1e-2
_LARGEST_STEP, _LARGEST = 0.15, 0.5  # of the entries of a map
_LEAST_NORM = 1e-3


class Alignment(NamedTuple):
    """How P second images lie on the first ones."""

    similarity: np.ndarray  # (P,) mean correlation of details, 0 where a coarse level rules a copy out
    overlap: np.ndarray  # (P,) share of an image that both show, the smaller of the two shares
    rotation: np.ndarray  # (P,) degrees


def align(details: Details, first: np.ndarray, second: np.ndarray, mirrored: np.ndarray) -> Alignment:
    """Aligns P pairs of images.

    Args:
      details: of all images.
      first: (P,) numbers of images.
      second: (P,) numbers of the images that are laid over them.
      mirrored: (P,) bool, whether the second one is mirrored before.
    """
    similarity, overlap, rotation = (np.zeros(len(first)) for _ in range(3))
    result = Alignment(similarity, overlap, rotation)
    rest, maps = np.arange(len(first)), maps_lib.identity(len(first))

    def pairs(side: int, deviation: float = COARSE) -> tuple[np.ndarray, np.ndarray]:
        both = details(np.concatenate([first[rest], second[rest]]), side, deviation)
        fixed, moving = both[: len(rest)], both[len(rest) :]
        turned = mirrored[rest]
        moving[turned] = moving[turned][:, :, ::-1]
        return fixed, moving

    for side, steps, least in zip(SIDES[:-1], _STEPS, _LEAST, strict=False):
        fixed, moving = pairs(side)
        maps = _refine(fixed, moving, maps, steps)
        good = _correlation(fixed, moving, maps) >= least
        rest, maps = rest[good], maps[good]
        if not len(rest):
            return result
    coarse, fine = pairs(SIDES[-1], COARSE), pairs(SIDES[-1], FINE)
    found = (_correlation(*coarse, maps) + _correlation(*fine, maps)) / 2
    unclear = np.flatnonzero(found < _CLEAR)
    if len(unclear):
        coarse, fine = ((fixed[unclear], moving[unclear]) for fixed, moving in (coarse, fine))
        maps[unclear] = _refine(*coarse, maps[unclear], _STEPS[-1])
        broad = _correlation(*coarse, maps[unclear])
        both = (broad + _correlation(*fine, maps[unclear])) / 2
        found[unclear] = np.where(broad >= _LEAST[-1], both, 0)
    overlap[rest] = maps_lib.overlap(maps, SIDES[-1])
    similarity[rest] = np.where(overlap[rest] >= _LEAST_OVERLAP, np.clip(found, 0, 1), 0)
    rotation[rest] = maps_lib.rotation(maps)
    return result


def _refine(
    fixed: np.ndarray, moving: np.ndarray, maps: np.ndarray, groups_of_steps: tuple[int, ...]
) -> np.ndarray:
    """Moves the maps (P, 2, 3) towards the best agreement of images (P, S, S)."""
    for steps in groups_of_steps:
        system = _System(fixed, maps)
        for _ in range(steps):
            step = np.clip(system.step(maps_lib.sample(moving, maps)), -_LARGEST_STEP, _LARGEST_STEP)
            maps = maps_lib.after_inverse(maps, step, largest=_LARGEST)
    return maps


class _System:
    """The normal equations of P maps: the least squares between normalised images where both show something.

    Eight images per pair, weighted: the slopes along the six entries of the map, the fixed image, and 1.
    Their products with each other and with the moving image are all that a step needs.
    """

    def __init__(self, fixed: np.ndarray, maps: np.ndarray):
        count, side = fixed.shape[:2]
        weight = maps_lib.inside(maps, side)
        rows = np.zeros((count, 8, side, side), np.float32)
        right, down = rows[:, 2], rows[:, 5]
        half = np.float32(side / 2)
        right[:, :, 1:-1] = (fixed[:, :, 2:] - fixed[:, :, :-2]) * half
        down[:, 1:-1] = (fixed[:, 2:] - fixed[:, :-2]) * half
        x = maps_lib.centres(side)
        for slope, entries in ((right, rows[:, :2]), (down, rows[:, 3:5])):
            slope *= weight
            np.multiply(slope, x, out=entries[:, 0])
            np.multiply(slope, x[:, None], out=entries[:, 1])
        np.multiply(fixed, weight, out=rows[:, 6])
        rows[:, 7] = weight
        self._rows = rows.reshape(count, 8, -1)
        products = (self._rows @ self._rows.transpose(0, 2, 1)).astype(np.float64)
        self._area = np.maximum(products[:, 7, 7], 1)
        self._slopes = products[:, :6, 7]
        mean = products[:, 6, 7] / self._area
        self._norm = _norm(products[:, 6, 6], mean, self._area)
        self._fixed = products[:, :6, 6] - mean[:, None] * self._slopes
        # The second derivatives of the start serve for all steps; what they share changes little.
        hessian = products[:, :6, :6]
        trace = np.trace(hessian, axis1=1, axis2=2)[:, None, None] / 6 + 1e-6
        self._inverse = np.linalg.inv(hessian + np.eye(6) * _DAMPING * trace)

    def step(self, warped: np.ndarray) -> np.ndarray:
        """Returns the steps (P, 2, 3) that make the fixed images most like the warped ones."""
        flat = warped.reshape(len(warped), -1)
        products = (self._rows @ flat[:, :, None])[..., 0].astype(np.float64)
        squares = np.einsum("ps,ps,ps->p", self._rows[:, 7], flat, flat).astype(np.float64)
        mean = products[:, 7] / self._area
        scale = self._norm / _norm(squares, mean, self._area)
        moving = scale[:, None] * (products[:, :6] - mean[:, None] * self._slopes)
        step = self._inverse @ (moving - self._fixed)[:, :, None]
        return step.reshape(-1, 2, 3)


def _norm(squares: np.ndarray, mean: np.ndarray, area: np.ndarray) -> np.ndarray:
    """Returns the norms (P,) of images less their means, from the sums of their squares."""
    return np.maximum(np.sqrt(np.maximum(squares - area * mean**2, 0)), _LEAST_NORM)


def _correlation(fixed: np.ndarray, moving: np.ndarray, maps: np.ndarray) -> np.ndarray:
    """Returns the correlations (P,) of images (P, S, S) where both show something."""
    count, side = fixed.shape[:2]
    weight = maps_lib.inside(maps, side).reshape(count, -1)
    a = fixed.reshape(count, -1) * weight
    b = maps_lib.sample(moving, maps).reshape(count, -1) * weight
    area = np.maximum(weight.sum(axis=1), 1)
    mean_a, mean_b = a.sum(axis=1) / area, b.sum(axis=1) / area
    squares_a, squares_b, both = (np.einsum("ps,ps->p", p, q) for p, q in ((a, a), (b, b), (a, b)))
    norms = _norm(squares_a, mean_a, area) * _norm(squares_b, mean_b, area)
    return (both - area * mean_a * mean_b) / norms
