"""Draws predictions on images."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Sequence

import numpy as np

from softbio_jax import files
from softbio_jax.console import percent
from softbio_jax.inference.predictor import Prediction

_COLOUR, _CHOSEN = (40, 200, 120), (255, 150, 30)
_MIN_SIDE = 320  # pixels: text on a smaller image could not be read
_MAX_ENLARGED = 4_000_000  # pixels; a thin image is not enlarged beyond
MAX_DRAWN = 25_000_000  # pixels; a larger image is drawn on at this size
_MAX_SIDE = 65_000  # pixels, of a JPEG with some lines of text


def annotate(
    image: np.ndarray, predictions: Sequence[Prediction], *, chosen: int | None = None, zoom: float = 1.0
) -> np.ndarray:
    """Returns (H', W', 3) uint8 with a box per face and one line per task below it.

    The lines of an image without a detected face are below the image. Small images are enlarged, to at
    most 4 megapixels; those of more than 25 megapixels, or 65,000 on a side, become smaller.

    Args:
      image: (H, W, 3) uint8 RGB.
      chosen: index of the prediction whose box has another colour.
      zoom: of the image, from the pixels of the boxes.
    """
    from PIL import Image, ImageDraw, ImageFont

    image, smaller = fit(image)
    zoom *= smaller
    canvas = Image.fromarray(image)
    enlarge = _zoom(canvas.height, canvas.width)
    if enlarge > 1:
        canvas = canvas.resize((round(canvas.width * enlarge), round(canvas.height * enlarge)))
    zoom *= max(1.0, enlarge)
    size = max(14, min(canvas.size) // 32)
    font = ImageFont.load_default(size)
    line = round(size * 1.35)
    if undetected := [p for p in predictions if p.face is None]:
        texts = lines(undetected[0])
        taller = Image.new("RGB", (canvas.width, canvas.height + line * len(texts)))
        taller.paste(canvas)
        height, canvas = canvas.height, taller
        _write(ImageDraw.Draw(canvas), texts, (4, height), font, line)
    draw = ImageDraw.Draw(canvas)
    for number, prediction in enumerate(predictions):
        if prediction.face is None:
            continue
        x0, y0, x1, y1 = (side * zoom for side in prediction.face.box)
        colour = _CHOSEN if number == chosen else _COLOUR
        draw.rectangle((x0, y0, x1, y1), outline=colour, width=max(2, size // 8))
        texts = lines(prediction)
        # Below the face if there is room, else inside its lower edge.
        top = min(y1 + 2, canvas.height - line * len(texts))
        _write(draw, texts, (max(0.0, x0), max(0.0, top)), font, line)
    return np.asarray(canvas)


def fit(image: np.ndarray) -> tuple[np.ndarray, float]:
    """Returns an image that is no larger than `annotate` draws on it, and its zoom factor, at most 1."""
    import cv2

    height, width = image.shape[:2]
    zoom = min(1.0, _zoom(height, width))
    if zoom == 1:
        return image, 1.0
    smaller = (max(1, round(width * zoom)), max(1, round(height * zoom)))
    return cv2.resize(image, smaller, interpolation=cv2.INTER_AREA), zoom


def _zoom(height: int, width: int) -> float:
    """Returns the factor that makes text readable and keeps the image small enough."""
    pixels = height * width
    enlarged = max(1.0, min(_MIN_SIDE / min(height, width), (_MAX_ENLARGED / pixels) ** 0.5))
    return min(enlarged, (MAX_DRAWN / pixels) ** 0.5, _MAX_SIDE / max(height, width))


def lines(prediction: Prediction) -> list[str]:
    """Returns one line per task, such as `age 20-29 (71 %), 25 years`.

    The line of a class without training images says so.
    """
    texts = []
    for task, name in prediction.classes.items():
        text = f"{task} {name} ({percent(prediction.probabilities[task][name], 0)} %)"
        if task == "age" and prediction.expected_age is not None:
            text += f", {prediction.expected_age:.0f} years"
        if task in prediction.untrained:
            text += ", no training images"
        texts.append(text)
    return texts


def save(image: np.ndarray, folder: str | os.PathLike[str], name: str, seconds: str | None) -> pathlib.Path:
    """Writes an annotated image to `folder/name.jpg`, or to `folder/name/SECONDS.jpg` for a video.

    `name` keeps its folders, so that images of the same name do not collide; it never leads out of
    `folder`, whatever it is.
    """
    from PIL import Image

    # Neither the root, of one slash or two, nor `..`; a drive or a backslash is part of a name here.
    parts = [part for part in os.fspath(name).split(os.sep) if part not in ("", os.curdir, os.pardir)]
    path = pathlib.Path(folder, *(parts or ["image"]))
    path = path / f"{seconds}.jpg" if seconds else path.with_name(path.name + ".jpg")
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.atomic_file(path) as temporary:
        Image.fromarray(image).save(temporary, "jpeg", quality=90)
    return path


def _write(draw, texts, corner, font, line) -> None:  # type: ignore[no-untyped-def]
    x, y = corner
    for text in texts:
        draw.rectangle((x, y, x + draw.textlength(text, font) + 6, y + line), fill=(0, 0, 0))
        draw.text((x + 3, y), text, fill=(255, 255, 255), font=font)
        y += line
