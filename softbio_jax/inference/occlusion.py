"""Occlusion maps: the probability that is lost when a window of the image is covered."""

from __future__ import annotations

import numpy as np

from softbio_jax.inference.predictor import Predictor

GRID = 8
EVIDENCE, AGAINST = (220, 30, 30), (30, 80, 220)  # colours of a map
_LEAST = 0.05  # noise does not look like evidence


def occlusion(model: Predictor, image: np.ndarray, *, grid: int = GRID) -> dict[str, np.ndarray]:
    """Covers one window after another and measures the predicted class' probability.

    drop_ij = p_c(x) - p_c(x with window ij in its mean colour), c the class predicted for x.
    Windows are centred on a grid and two cells wide, so neighbours overlap. The map holds for any
    architecture and shows what this prediction depends on. It does not explain why, and it misses a
    feature that appears in two places.

    Args:
      image: (S, S, 3) uint8, as the model sees it.
      grid: G, windows per side; the forward pass runs on G^2 + 1 images.

    Returns:
      {task: (G, G) float32}, above zero where covering makes the class less likely.

    Source: Zeiler and Fergus 2014, arXiv:1311.2901, section 4.2.
    """
    clean = model.probabilities(image[None])
    drops = {}
    for task, probabilities in model.probabilities(covered(image, grid=grid)).items():
        likeliest = int(clean[task][0].argmax())
        lost = clean[task][0, likeliest] - probabilities[:, likeliest]
        drops[task] = lost.reshape(grid, grid).astype(np.float32)
    return drops


def covered(image: np.ndarray, *, grid: int) -> np.ndarray:
    """Returns (G^2, S, S, 3) uint8: the image with each window in the image's mean colour."""
    size = image.shape[0]
    colour = image.mean(axis=(0, 1)).round().astype(np.uint8)
    result = np.repeat(image[None], grid * grid, axis=0)
    edges = np.linspace(-size / grid / 2, size + size / grid / 2, grid + 2).round().astype(int)
    for i in range(grid):
        for j in range(grid):
            top, left = max(edges[i], 0), max(edges[j], 0)
            result[i * grid + j, top : edges[i + 2], left : edges[j + 2]] = colour
    return result


def scale(drops: np.ndarray) -> float:
    """Returns the drop of a map's strongest colours: the largest in it, but at least 5 points."""
    return max(float(np.abs(drops).max()), _LEAST)


def overlay(image: np.ndarray, drops: np.ndarray, *, side: int = 384) -> np.ndarray:
    """Colours a grey image by its drops: red is evidence for the class, blue against it.

    Args:
      image: (S, S, 3) uint8.
      drops: (G, G); the strongest colour is at `scale`.
      side: of the result in pixels.

    Returns:
      (side, side, 3) uint8.
    """
    import cv2

    grey = cv2.resize(image, (side, side), interpolation=cv2.INTER_LINEAR).mean(axis=2)
    scaled = drops / scale(drops)
    strength = cv2.resize(scaled, (side, side), interpolation=cv2.INTER_LINEAR)[..., None]
    colour = np.where(strength > 0, np.array(EVIDENCE, float), np.array(AGAINST, float))
    opacity = 0.65 * np.abs(strength)
    mixed = grey[..., None] * (1 - opacity) + colour * opacity
    return mixed.clip(0, 255).astype(np.uint8)
