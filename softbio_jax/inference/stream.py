"""Predicts from any number of image and video files into a table; unreadable files are skipped."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import math
import os
import re
from collections.abc import Iterable, Iterator
from typing import Literal

import numpy as np

from softbio_jax.console import QUIET, Console
from softbio_jax.data import listing
from softbio_jax.data.decode import MAX_PIXELS, UndecodableImage, size_of
from softbio_jax.data.faces import Face, FaceFinder
from softbio_jax.errors import UserError
from softbio_jax.inference import annotate, images
from softbio_jax.inference.inputs import is_video
from softbio_jax.inference.predictor import Predictor
from softbio_jax.inference.table import PredictionTable, time_text
from softbio_jax.safety.untrusted import PixelBudget

_MAX_FULL_IMAGES = 16  # in memory at once, where the full resolution is needed
_READING = PixelBudget(MAX_PIXELS)  # of images in full resolution, in all threads


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pace:
    """Which frames of a video are used: every `frames`-th, or one per `seconds`."""

    frames: int = 0
    seconds: float = 0.0

    @classmethod
    def parse(cls, text: str) -> Pace:
        """Reads a pace such as "10" (frames) or "0.5s" (seconds)."""
        match = re.fullmatch(r"(\d{1,9})|(\d{0,9}\.?\d{1,9})s", text.strip())
        found = match and cls(frames=int(match[1] or 0), seconds=float(match[2] or 0))
        if not found or found == cls():
            raise UserError(
                "bad pace",
                where="--every",
                expected="frames as 10, or seconds as 0.5s",
                found=repr(text),
                fix="correct it",
            )
        return found


def frames(path: str, pace: Pace, *, after: float | None = None) -> Iterator[tuple[float, np.ndarray]]:
    """Yields (seconds from the start, (H, W, 3) uint8 RGB), rotated as the video's metadata says.

    Args:
      pace: which frames; always includes the first.
      after: frames up to this time are skipped without being decoded to pixels.

    Raises:
      UserError: not a video, or no frame in it.
    """
    import cv2

    capture = cv2.VideoCapture(path)
    try:
        rate = capture.get(cv2.CAP_PROP_FPS)
        rate = rate if 0 < rate < 1e6 else 25.0
        size = capture.get(cv2.CAP_PROP_FRAME_WIDTH), capture.get(cv2.CAP_PROP_FRAME_HEIGHT)
        if size[0] * size[1] > MAX_PIXELS:
            raise UserError(
                "cannot read the video",
                where=path,
                expected=f"frames of at most {MAX_PIXELS:,} pixels",
                found=f"{size[0]:.0f}x{size[1]:.0f}",
                fix="make it smaller, for example with ffmpeg",
            )
        number, due = 0, 0.0
        while capture.grab():
            # The time of the frame just grabbed; some containers do not have it, or anything there.
            now = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
            now = now if 0 < now < math.inf else number / rate
            if number % pace.frames == 0 if pace.frames else now >= due - 1e-6:
                if pace.seconds:
                    due += pace.seconds * max(1.0, (now + 1e-6 - due) // pace.seconds + 1)
                if after is None or now > after + 5e-4:  # tables have milliseconds
                    complete, image = capture.retrieve()
                    if complete:
                        yield now, cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
            number += 1
        if number == 0:
            raise UserError(
                "cannot read the video",
                where=path,
                expected="a video that OpenCV opens",
                found="no frame",
                fix="convert it, for example with ffmpeg",
            )
    finally:
        capture.release()


@dataclasses.dataclass(kw_only=True)
class Counts:
    """Results of a stream; a video's frames count as images."""

    images: int = 0  # written now
    faces: int = 0  # rows written now
    done: int = 0  # files that already were in the table
    untrained: int = 0  # rows written now with a class that had no training image
    skipped: int = 0  # files that could not be read, or without a face


@dataclasses.dataclass(kw_only=True)
class _Item:
    """An image file or a frame; `Stream._read` adds its crops, or the problem that it has."""

    name: str
    seconds: float | None = None
    image: np.ndarray | None = None  # a frame, and what will be annotated
    faces: list[Face | None] = dataclasses.field(default_factory=list)
    squares: list[np.ndarray] = dataclasses.field(default_factory=list)
    problem: str = ""
    zoom: float = 1.0  # of `image`, from the pixels of the faces


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stream:
    """Settings of a stream.

    Args:
      faces: "detect" finds faces, "crop" uses each image unchanged as one face.
      finder: the face detector; None: MTCNN.
      margin: around detected faces, see `images.face_square`.
      pace: which frames of videos.
      annotated: a folder for annotated images, or None.
      console: reports skipped files and the progress.
    """

    model: Predictor
    table: PredictionTable
    faces: Literal["detect", "crop"]
    finder: FaceFinder | None
    margin: float
    pace: Pace
    annotated: str | os.PathLike[str] | None
    console: Console = QUIET

    def run(self, names: Iterable[str]) -> Counts:
        """Predicts from files."""
        counts = Counts()
        full = self.annotated is not None or self.faces == "detect"
        size = min(_MAX_FULL_IMAGES, self.model.max_batch) if full else self.model.max_batch
        items = self._items(names, counts)
        meter = self.console.meter("predicting", 0)
        with concurrent.futures.ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            while chunk := _chunk(items, size):
                before = counts.images
                self._predict(list(pool.map(self._read, chunk)), counts)
                meter.add(counts.images - before)
        return counts

    def _items(self, names: Iterable[str], counts: Counts) -> Iterator[_Item]:
        for name in names:
            if problem := listing.name_problem(name):
                self._skip(listing.shown(name), problem, counts)
            elif is_video(name):
                yield from self._frames(name, counts)
            elif self.table.done(name):
                counts.done += 1
            else:
                yield _Item(name=name)

    def _frames(self, name: str, counts: Counts) -> Iterator[_Item]:
        after = self.table.last_seconds(name)
        counts.done += after is not None
        try:
            for seconds, frame in frames(name, self.pace, after=after):
                yield _Item(name=name, seconds=seconds, image=frame)
        except UserError as error:
            self._skip(name, str(error), counts)

    def _read(self, item: _Item) -> _Item:
        """Decodes an image and cuts out its faces; runs in several threads."""
        full = self.annotated is not None or self.faces == "detect"
        height, width = (full and item.image is None and _declared(item.name)) or (0, 0)
        with _READING.hold(min(height * width, MAX_PIXELS)):
            self._cut(item)
        return item

    def _cut(self, item: _Item) -> None:
        size, is_frame = self.model.bundle.image_size, item.image is not None
        try:
            if self.faces == "crop":
                item.squares = [images.square(item.image if is_frame else item.name, size=size)]
                item.faces = [None]
                if self.annotated is not None and not is_frame:
                    item.image = images.pixels(item.name)
            else:
                image = images.pixels(item.name) if item.image is None else item.image
                found = self.model.find_faces(image, self.finder)
                item.squares = [images.face_square(image, f, size=size, margin=self.margin) for f in found]
                item.faces, item.image = list(found), image
                if not found and not is_frame:  # frames without a face are normal
                    item.problem = "no face found (--faces=crop uses images unchanged)"
        except (UserError, UndecodableImage) as error:
            item.problem = str(error)
        if self.annotated is None:
            item.image = None
        elif item.image is not None:
            item.image, item.zoom = annotate.fit(item.image)

    def _predict(self, items: list[_Item], counts: Counts) -> None:
        squares = [square for item in items if not item.problem for square in item.squares]
        predictions = iter(self.model.predict_squares(squares))
        for item in items:
            if item.problem:
                self._skip(item.name, item.problem, counts)
                continue
            own = [dataclasses.replace(next(predictions), face=face) for face in item.faces]
            if self.annotated is not None and item.image is not None:
                drawn = annotate.annotate(item.image, own, zoom=item.zoom)
                annotate.save(drawn, self.annotated, item.name, time_text(item.seconds))
            # Last, so that a row means that its image is complete.
            self.table.write(item.name, item.seconds, own)
            counts.images += 1
            counts.faces += len(own)
            counts.untrained += sum(bool(prediction.untrained) for prediction in own)

    def _skip(self, name: str, reason: str, counts: Counts) -> None:
        counts.skipped += 1
        self.console.say(f"skipped: {reason}" if name in reason else f"skipped: {name}: {reason}")


def _chunk(items: Iterator[_Item], size: int) -> list[_Item]:
    """Returns the next items: at most `size`, and no more once their frames fill the budget."""
    chunk: list[_Item] = []
    pixels = 0
    while len(chunk) < size and pixels < MAX_PIXELS and (item := next(items, None)) is not None:
        chunk.append(item)
        pixels += item.image.size // 3 if item.image is not None else 0
    return chunk


def _declared(name: str) -> tuple[int, int] | None:
    return size_of(name) if os.path.isfile(name) else None
