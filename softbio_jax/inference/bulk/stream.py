"""Predicts from any number of image and video files into a table; unreadable files are skipped."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import Literal, TypeVar

import numpy as np

from softbio_jax.console import QUIET, Console, Meter
from softbio_jax.data import listing
from softbio_jax.data.decode import MAX_PIXELS, UndecodableImage, size_of
from softbio_jax.data.faces import Face, FaceFinder
from softbio_jax.errors import UserError
from softbio_jax.inference import annotate, images
from softbio_jax.inference.bulk import workers
from softbio_jax.inference.bulk.inputs import is_video
from softbio_jax.inference.bulk.parquet import TableImage, TableReader
from softbio_jax.inference.bulk.table import PredictionTable, time_text
from softbio_jax.inference.bulk.videos import Pace, frames
from softbio_jax.inference.certainty import Certainty
from softbio_jax.inference.predictor import Prediction, Predictor
from softbio_jax.inference.tracking.video import Tracks
from softbio_jax.safety.untrusted import PixelBudget

T = TypeVar("T")
_MAX_THREADS = 32  # that decode
_MAX_FULL_IMAGES = 16  # in memory at once, where the full resolution is needed
_READING = PixelBudget(MAX_PIXELS)  # of images in full resolution, in all threads


@dataclasses.dataclass(kw_only=True)
class Counts:
    """Results of a stream; a video's frames count as images."""

    images: int = 0  # written now
    faces: int = 0  # rows written now
    done: int = 0  # files that already were in the table
    untrained: int = 0  # rows written now with a class that had no training image
    skipped: int = 0  # files that could not be read, or without a face

    def __add__(self, other: Counts) -> Counts:
        mine, theirs = dataclasses.asdict(self), dataclasses.asdict(other)
        return Counts(**{name: mine[name] + theirs[name] for name in mine})


@dataclasses.dataclass(kw_only=True)
class _Item:
    """An image file or a frame; `Stream._read` adds its crops, or the problem that it has."""

    name: str
    seconds: float | None = None
    source: bytes | str = ""  # of an image in a table: encoded, or a path; else its name is its path
    image: np.ndarray | None = None  # a frame, and what will be annotated
    faces: list[Face | None] = dataclasses.field(default_factory=list)
    squares: list[np.ndarray] = dataclasses.field(default_factory=list)
    problem: str = ""
    done: bool = False  # the table has its rows
    zoom: float = 1.0  # of `image`, from the pixels of the faces


@dataclasses.dataclass(kw_only=True)
class Follow:
    """Follows the faces of videos, one video after the other.

    Args:
      begin: returns what follows the faces of a new video.
      tracks: the table of tracks, which has the rows of a video once all its frames are predicted.
    """

    begin: Callable[[], Tracks]
    tracks: PredictionTable
    _name: str = ""
    _video: Tracks | None = None

    def update(
        self, name: str, seconds: float, predictions: list[Prediction], certainty: Certainty | None
    ) -> list[Prediction]:
        """Returns the smoothed predictions of a frame; a frame of another video ends the one before."""
        if name != self._name or self._video is None:
            self.finish(certainty)
            self._name, self._video = name, self.begin()
        return self._video.update(seconds, predictions)

    def finish(self, certainty: Certainty | None) -> None:
        """Writes the tracks of the video that was followed last."""
        if self._video is not None:
            rows = self._video.summary()
            rows = rows if certainty is None else list(map(certainty.marked, rows))
            self.tracks.write(self._name, None, rows)
        self._video = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stream:
    """Settings of a stream.

    Args:
      faces: "detect" finds faces, "crop" uses each image unchanged as one face.
      finder: the face detector; None: MTCNN.
      margin: around detected faces, see `images.face_square`.
      pace: which frames of videos.
      annotated: a folder for annotated images, or None.
      certainty: marks answers as unsure; None: none is.
      follow: follows the faces of videos; None: every frame is on its own.
      workers: processes that decode crops which are not annotated; 0: threads of this process.
      console: reports skipped files and the progress.
    """

    model: Predictor
    table: PredictionTable
    faces: Literal["detect", "crop"]
    finder: FaceFinder | None
    margin: float
    pace: Pace
    annotated: str | os.PathLike[str] | None
    certainty: Certainty | None = None
    follow: Follow | None = None
    workers: int = 0
    console: Console = QUIET

    def run(self, names: Iterable[str]) -> Counts:
        """Predicts from files; the progress shows the time left where their number is known."""
        counts = Counts()
        places = None if self.annotated is None else annotate.Places(self.annotated)
        full = self.annotated is not None or self.faces == "detect"
        size = self.model.max_batch * len(self.model.devices)
        size = min(_MAX_FULL_IMAGES, size) if full else size
        meter = self.console.meter("predicting", len(names) if isinstance(names, Sized) else 0, unit="files")
        items = self._items(names, counts, meter)
        # A few images are a small batch. From the first whole batch on, all batches are whole ones. A video
        # that is followed always has whole ones, its own: those of the run that completes it alone.
        whole = self.follow is not None
        with concurrent.futures.ThreadPoolExecutor(min(_MAX_THREADS, os.cpu_count() or 1)) as pool:
            # One chunk is decoded while the devices compute the one before, where chunks are small.
            pixels = MAX_PIXELS if full else MAX_PIXELS // 2
            chunks = _chunks(items, size, pixels=pixels, by_video=self.follow is not None)
            read = ([pool.submit(self._read, item) for item in chunk] for chunk in chunks)
            for chunk in read if full else _ahead(read):
                ready = [future.result() for future in chunk]
                squares = self._squares(ready)
                whole |= len(squares) >= self.model.max_batch
                self._predict(ready, squares, counts, places, whole=whole)
        if self.follow is not None:
            self.follow.finish(self.certainty)
        return counts

    def _items(self, names: Iterable[str], counts: Counts, meter: Meter) -> Iterator[_Item]:
        names = list(names) if self.workers else names
        decoded, tables = self._decoded(names) if self.workers else itertools.repeat(None), TableReader()
        for name in names:
            meter.add()
            ahead = next(decoded)
            if problem := listing.name_problem(name):
                self._skip(listing.shown(name), problem, counts)
            elif is_video(name):
                yield from self._frames(name, counts)
            elif self.table.done(name):
                counts.done += 1
                if self.faces == "crop":
                    yield _Item(name=name, done=True)
            elif ahead is not None:
                square, problem = ahead
                yield _Item(name=name, faces=[None], squares=[] if problem else [square], problem=problem)
            elif isinstance(name, TableImage):
                try:
                    yield _Item(name=name, source=tables.read(name))
                except UserError as error:
                    yield _Item(name=name, problem=str(error))
            else:
                yield _Item(name=name)

    def _decoded(self, names: Iterable[str]) -> Iterator[tuple[np.ndarray, str]]:
        """Yields a square, or the problem of an image, for every name; nothing for those that need none."""
        needless = (listing.name_problem(name) or is_video(name) or self.table.done(name) for name in names)
        wanted = ["" if other else name for name, other in zip(names, needless, strict=True)]
        return workers.squares(wanted, size=self.model.bundle.image_size, workers=self.workers)

    def _frames(self, name: str, counts: Counts) -> Iterator[_Item]:
        after = self.table.last_seconds(name)
        if self.follow is not None:
            if self.follow.tracks.done(name):
                counts.done += 1
                return
            after = None  # its tracks begin at its start, even if its first frames have rows
        counts.done += after is not None
        try:
            for seconds, frame in frames(name, self.pace, after=after):
                yield _Item(name=name, seconds=seconds, image=frame)
        except UserError as error:
            self._skip(name, str(error), counts)

    def _read(self, item: _Item) -> _Item:
        """Decodes an image and cuts out its faces; runs in several threads."""
        if item.done or item.squares or item.problem:
            return item
        full = self.annotated is not None or self.faces == "detect"
        height, width = (full and item.image is None and _declared(item)) or (0, 0)
        with _READING.hold(min(height * width, MAX_PIXELS)):
            self._cut(item)
        return item

    def _cut(self, item: _Item) -> None:
        size, is_frame = self.model.bundle.image_size, item.image is not None
        given, name = item.source or item.name, item.name
        try:
            if self.faces == "crop":
                item.squares = [images.square(item.image if is_frame else given, size=size, where=name)]
                item.faces = [None]
                if self.annotated is not None and not is_frame:
                    item.image = images.pixels(given, where=name)
            else:
                image = images.pixels(given, where=name) if item.image is None else item.image
                found = self.model.find_faces(image, self.finder)
                item.squares = [images.face_square(image, f, size=size, margin=self.margin) for f in found]
                item.faces, item.image = list(found), image
                if not found and not is_frame:  # frames without a face are normal
                    item.problem = "no face found (--faces=crop uses images unchanged)"
        except (UserError, UndecodableImage) as error:
            item.problem = str(error)
        item.source = ""
        if self.annotated is None:
            item.image = None
        elif item.image is not None:
            item.image, item.zoom = annotate.fit(item.image)

    def _squares(self, items: list[_Item]) -> list[np.ndarray]:
        """Returns the crops of a chunk.

        The last bit of a row can depend on its place in the batch. So every image that is a crop keeps its
        place, that of a file which cannot be read, or has been predicted, remaining empty: the table is
        the same after an interruption, and on any number of devices.
        """
        if self.faces == "crop":
            blank = np.zeros((self.model.bundle.image_size,) * 2 + (3,), np.uint8)
            return [item.squares[0] if item.squares else blank for item in items]
        return [square for item in items for square in item.squares]

    def _predict(
        self,
        items: list[_Item],
        squares: list[np.ndarray],
        counts: Counts,
        places: annotate.Places | None,
        *,
        whole: bool,
    ) -> None:
        wanted = any(item.squares for item in items)
        predictions = iter(self.model.predict_squares(squares, whole=whole) if wanted else ())
        for item in items:
            if self.faces == "crop" and wanted and not item.squares:
                next(predictions)  # of an empty place
            if item.problem:
                self._skip(item.name, item.problem, counts)
            if item.problem or item.done:
                continue
            own = [dataclasses.replace(next(predictions), face=face) for face in item.faces]
            if self.follow is not None and item.seconds is not None:
                own = self.follow.update(item.name, item.seconds, own, self.certainty)
                if self.table.done(item.name, item.seconds):
                    continue
            if self.certainty is not None:
                own = list(map(self.certainty.marked, own))
            if places is not None and item.image is not None:
                drawn = annotate.annotate(item.image, own, zoom=item.zoom)
                annotate.save(drawn, places, item.name, time_text(item.seconds))
            # Last, so that a row means that its image is complete.
            self.table.write(item.name, item.seconds, own)
            counts.images += 1
            counts.faces += len(own)
            counts.untrained += sum(bool(prediction.untrained) for prediction in own)

    def _skip(self, name: str, reason: str, counts: Counts) -> None:
        counts.skipped += 1
        self.console.say(f"skipped: {reason}" if name in reason else f"skipped: {name}: {reason}")


def _chunks(items: Iterator[_Item], size: int, *, pixels: int, by_video: bool) -> Iterator[list[_Item]]:
    """Yields lists of at most `size` items, and of no more once their frames fill the budget.

    With `by_video` no list has frames of a video and anything else.
    """
    chunk: list[_Item] = []
    held = 0
    for item in items:
        if by_video and chunk and _video(item) != _video(chunk[-1]):
            yield chunk
            chunk, held = [], 0
        chunk.append(item)
        held += item.image.size // 3 if item.image is not None else 0
        if len(chunk) == size or held >= pixels:
            yield chunk
            chunk, held = [], 0
    if chunk:
        yield chunk


def _video(item: _Item) -> str:
    return "" if item.seconds is None else item.name


def _ahead(values: Iterator[T]) -> Iterator[T]:
    """Yields the values, each after the next one was asked for."""
    held = next(values, None)
    while held is not None:
        following = next(values, None)
        yield held
        held = following


def _declared(item: _Item) -> tuple[int, int] | None:
    source = item.source or item.name
    return size_of(source) if isinstance(source, bytes) or os.path.isfile(source) else None
