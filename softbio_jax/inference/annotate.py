"""Draws predictions on images."""

from __future__ import annotations

import hashlib
import os
import pathlib
import re
import unicodedata
from collections.abc import Iterable, Sequence

import numpy as np

from softbio_jax import files
from softbio_jax.console import percent
from softbio_jax.errors import UserError
from softbio_jax.escaping import one_line
from softbio_jax.inference.predictor import Prediction

_COLOUR, _CHOSEN = (40, 200, 120), (255, 150, 30)
_MIN_SIDE = 320  # pixels: text on a smaller image could not be read
_MAX_ENLARGED = 4_000_000  # pixels; a thin image is not enlarged beyond
MAX_DRAWN = 25_000_000  # pixels; a larger image is drawn on at this size
_MAX_NAME = 200  # bytes; with the digest and the ending below the 255 of file systems
_LENGTHS = (8, 16, 32)  # of the digests of images whose names are taken, until one is free
_UNSAFE = re.compile(r'[<>:"\\|?*]')
_RESERVED = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³]) *(\..*)?", re.IGNORECASE)
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
    """Returns one line per task, such as `age 20-29 (71 %), 25 years`, below the number of a track.

    The line of a class without training images, and of an unsure answer, says so.
    """
    texts = [] if prediction.track is None else [f"face {prediction.track.number}"]
    for task, name in prediction.classes.items():
        shown = f"unsure, perhaps {name}" if task in prediction.unsure else name
        text = f"{task} {shown} ({percent(prediction.probabilities[task][name], 0)} %)"
        if task == "age" and prediction.expected_age is not None:
            text += f", {prediction.expected_age:.0f} years"
        if task in prediction.untrained:
            text += ", no training images"
        texts.append(text)
    return texts


class Places:
    """Chooses the file of every annotated image below a folder, so that none takes another one's.

    An image is `folder/NAME.jpg`, a frame of a video `folder/NAME/SECONDS.jpg`. NAME keeps its folders, and
    never leads out of `folder`, whatever it is. What other systems or tools cannot take is replaced (`..`,
    control characters, `<>:"|?*` and backslashes, names that Windows reserves, names of more than 200
    bytes), and a digest is added. So it is where a file of that name, in any case of letters, was not
    written for the same image: it remains. The comment of each JPEG identifies its image by a digest of the
    absolute path, so a second run writes the same files.
    """

    def __init__(self, folder: str | os.PathLike[str]):
        self._folder = pathlib.Path(folder)
        self._listed: dict[str, dict[str, pathlib.Path]] = {}  # folder -> name -> file, both as `_folded`

    def place(self, name: str, seconds: str | None = None) -> tuple[pathlib.Path, bytes]:
        """Returns the file of an image or a frame, whose folders exist then, and the comment it must have."""
        given = os.fspath(name)
        source = f"{os.path.abspath(given)}\n{seconds or ''}"
        owner = hashlib.sha256(source.encode("utf-8", "surrogatepass")).hexdigest()
        *folders, last = _plain(given, is_folder=seconds is not None)
        for length in (0, *_LENGTHS):
            own = f"{last}-{owner[:length]}" if length else last
            parts = [*folders, own, f"{seconds}.jpg"] if seconds else [*folders, f"{own}.jpg"]
            path, comment = self._folder.joinpath(*parts), owner.encode()
            siblings = self._siblings(parts[:-1])
            taken = siblings.setdefault(_folded(parts[-1]), path)
            # The second one was written by another process in the meantime.
            if all(not file.exists() or _comment(file) == comment for file in (taken, path)):
                break
        path.parent.mkdir(parents=True, exist_ok=True)
        return path, comment

    def check_apart(self, arguments: Iterable[str]) -> None:
        """Raises UserError if files would be written into a folder that is searched for images.

        They would lie among the user's own, and the same command would read them when it runs again.

        Args:
          arguments: what is predicted: files, folders and others, of which the folders are checked.
        """
        for argument in arguments:
            folder = pathlib.Path(files.home(argument))
            if folder.is_dir():
                *below, _ = _plain(str(folder / "image"), is_folder=False)
                place = self._folder.joinpath(*below).resolve()
                if folder.resolve() in (place, *place.parents):
                    raise UserError(
                        "annotated images among those to predict",
                        where=f"--annotate={self._folder}",
                        expected=f"a folder outside {argument}",
                        found=str(self._folder.joinpath(*below)),
                        fix="name another folder",
                    )

    def _siblings(self, parts: list[str]) -> dict[str, pathlib.Path]:
        """Returns the files of a folder, with those of folders whose names differ in case alone."""
        key = "/".join(map(_folded, parts))
        if key not in self._listed:
            folders = [self._folder] if self._folder.is_dir() else []
            for part in parts:
                inside = (path for folder in folders for path in folder.iterdir())
                folders = [path for path in inside if _folded(path.name) == _folded(part) and path.is_dir()]
            found = sorted(path for folder in folders for path in folder.iterdir())
            self._listed[key] = {_folded(path.name): path for path in found}
        return self._listed[key]


def save(
    image: np.ndarray, folder: str | os.PathLike[str] | Places, name: str, seconds: str | None
) -> pathlib.Path:
    """Writes an annotated image as a JPEG below a folder and returns its path; `Places` chooses it."""
    from PIL import Image

    places = folder if isinstance(folder, Places) else Places(folder)
    path, comment = places.place(name, seconds)
    with files.atomic_file(path) as temporary:
        Image.fromarray(image).save(temporary, "jpeg", quality=90, comment=comment)
    return path


def _comment(path: pathlib.Path) -> bytes | None:
    """Returns the comment of a JPEG, None of anything else."""
    from PIL import Image

    try:
        with Image.open(path, formats=["JPEG"]) as image:
            found = image.info.get("comment")
    except (OSError, ValueError, SyntaxError):
        return None
    return found if isinstance(found, bytes) else None


def _folded(name: str) -> str:
    """Returns what names have in common that are one name where case or composition does not count."""
    return unicodedata.normalize("NFC", name).casefold()


def _plain(name: str, *, is_folder: bool) -> list[str]:
    """Returns the parts of a path below a folder that every system can have."""
    given = [part for part in name.split("/") if part not in ("", ".")]
    parts = [_plain_part(part) for part in given] or ["image"]
    # A folder x.jpg could be the file of the image x.
    named = slice(None) if is_folder else slice(-1)
    parts[named] = [f"{part}_" if part.lower().endswith(".jpg") else part for part in parts[named]]
    if parts != given:
        digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
        parts[-1] = f"{parts[-1]}-{digest}"
    return parts


def _plain_part(part: str) -> str:
    # Windows drops dots and spaces at the end, also of "..".
    plain = _UNSAFE.sub("_", one_line(part)).rstrip(". ") or "_"
    if _RESERVED.fullmatch(plain):
        plain = f"_{plain}"
    return plain.encode()[:_MAX_NAME].decode(errors="ignore")


def _write(draw, texts, corner, font, line) -> None:  # type: ignore[no-untyped-def]
    x, y = corner
    for text in texts:
        draw.rectangle((x, y, x + draw.textlength(text, font) + 6, y + line), fill=(0, 0, 0))
        draw.text((x + 3, y), text, fill=(255, 255, 255), font=font)
        y += line
