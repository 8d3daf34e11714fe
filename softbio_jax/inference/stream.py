"""Any number of files through a predictor into a table, whatever is broken among them."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import itertools
import os
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Literal

import numpy as np

from softbio_jax.data.decode import UndecodableImage
from softbio_jax.data.faces import Face, FaceFinder
from softbio_jax.errors import UserError
from softbio_jax.inference import annotate, images, table
from softbio_jax.inference.inputs import is_video
from softbio_jax.inference.predictor import Predictor
from softbio_jax.inference.table import Table


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pace:
    """Every how many frames, or every how many seconds, a frame is taken."""

    frames: int = 0
    seconds: float = 0.0


def pace(text: str) -> Pace:
    """Returns the pace that a text such as "10" (frames) or "0.5s" (seconds) says.

    Raises:
      UserError: neither, or not above zero.
    """
    match = re.fullmatch(r"(\d+)|(\d*\.?\d+)s", text.strip())
    found = match and Pace(frames=int(match[1] or 0), seconds=float(match[2] or 0))
    if not found or found == Pace():
        raise UserError(
            "bad pace",
            where="--every",
            expected="frames as 10, or seconds as 0.5s",
            found=repr(text),
            fix="correct it",
        )
    return found


def frames(path: str, pace: Pace, *, after: float | None = None) -> Iterator[tuple[float, np.ndarray]]:
    """Yields (seconds from the start, (H, W, 3) uint8 RGB), turned as the video says.

    Args:
      path: the file.
      pace: which frames; the first is always one of them.
      after: frames up to this time are passed over without being decoded to pixels.

    Raises:
      UserError: no video, or not a single frame.
    """
    import cv2

    capture = cv2.VideoCapture(path)
    try:
        rate = capture.get(cv2.CAP_PROP_FPS) or 25.0
        number, due = 0, 0.0
        while capture.grab():
            # The time of the frame just grabbed; some containers do not tell.
            now = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000 or number / rate
            if pace.frames:
                wanted = number % pace.frames == 0
            else:
                wanted = now >= due - 1e-6
            if wanted:
                while pace.seconds and due <= now + 1e-6:
                    due += pace.seconds
                if after is None or now > after + 5e-4:  # tables have milliseconds
                    whole, picture = capture.retrieve()
                    if whole:
                        yield now, cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)
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


Faces = Literal["detect", "crop"]
_FULL_PICTURES = 16  # held at once, where the full resolution is needed


@dataclasses.dataclass(kw_only=True)
class Counts:
    """What came of the inputs; a video's frames count as pictures."""

    pictures: int = 0
    faces: int = 0
    skipped: int = 0  # were in the table already
    left_out: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Job:
    """A picture to be read, or a frame that was."""

    name: str
    seconds: float | None = None
    frame: np.ndarray | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Read:
    """A picture's crops, or why there is none."""

    job: _Job
    squares: list[np.ndarray]
    found: list[Face | None]
    image: np.ndarray | None = None  # in full, where it will be drawn on
    problem: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stream:
    """What is done to every file.

    Args:
      model: the predictor.
      table: where rows go.
      label: what rows call the model.
      faces: "detect" finds faces, "crop" takes pictures as they are.
      finder: finds them; None: MTCNN.
      margin: around found faces, see `pictures.face_square`.
      pace: which frames of videos.
      annotated: a folder for annotated pictures, or None.
      report: is told of every file that is left out, with the reason.
      progress: is told the counts now and then.
    """

    model: Predictor
    table: Table
    label: str
    faces: Faces
    finder: FaceFinder | None
    margin: float
    pace: Pace
    annotated: str | os.PathLike[str] | None
    report: Callable[[str], None]
    progress: Callable[[Counts], None]

    def run(self, names: Iterable[str]) -> Counts:
        """Predicts from files and returns what came of them."""
        counts = Counts()
        full = self.annotated is not None or self.faces == "detect"
        size = min(_FULL_PICTURES, self.model.max_batch) if full else self.model.max_batch
        jobs = self._jobs(names, counts)
        with concurrent.futures.ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            while chunk := list(itertools.islice(jobs, size)):
                self._finish(list(pool.map(self._read, chunk)), counts)
                self.progress(counts)
        return counts

    def _jobs(self, names: Iterable[str], counts: Counts) -> Iterator[_Job]:
        for name in names:
            if "\n" in name or "\r" in name:
                self._leave_out(name, "a line break in its name", counts)
            elif is_video(name):
                yield from self._frames(name, counts)
            elif self.table.done(name):
                counts.skipped += 1
            else:
                yield _Job(name=name)

    def _frames(self, name: str, counts: Counts) -> Iterator[_Job]:
        after = self.table.last_seconds(name)
        counts.skipped += after is not None
        try:
            for seconds, frame in frames(name, self.pace, after=after):
                yield _Job(name=name, seconds=seconds, frame=frame)
        except UserError as error:
            self._leave_out(name, str(error), counts)

    def _read(self, job: _Job) -> _Read:
        size = self.model.bundle.image_size
        wants_image = self.annotated is not None
        try:
            if self.faces == "crop" and job.frame is None and not wants_image:
                square = images.square(job.name, size=size)
                return _Read(job=job, squares=[square], found=[None])
            image = images.pixels(job.name) if job.frame is None else job.frame
            found: list[Face | None]
            if self.faces == "crop":
                source = image if job.frame is not None else job.name
                squares, found = [images.square(source, size=size)], [None]
            else:
                detected = self.model.find_faces(image, self.finder)
                squares = [
                    images.face_square(image, face, size=size, margin=self.margin) for face in detected
                ]
                found = list(detected)
            problem = ""
            if not found and job.frame is None:  # a video may well have frames without a face
                problem = "no face found (--faces=crop takes pictures as they are)"
            return _Read(
                job=job, squares=squares, found=found, problem=problem, image=image if wants_image else None
            )
        except (UserError, UndecodableImage) as error:
            return _Read(job=job, squares=[], found=[], problem=str(error))

    def _finish(self, chunk: list[_Read], counts: Counts) -> None:
        squares = [square for read in chunk for square in read.squares]
        predictions = iter(self.model.predict_squares(squares))
        tasks = self.model.bundle.tasks
        for read in chunk:
            job = read.job
            if read.problem:
                self._leave_out(job.name, read.problem, counts)
                continue
            own = [dataclasses.replace(next(predictions), face=face) for face in read.found]
            if read.image is not None and self.annotated is not None:
                drawn = annotate.annotate(read.image, own)
                annotate.save(drawn, self.annotated, job.name, table.time_text(job.seconds))
            # After its picture, so that a row says that all is done.
            self.table.write(table.rows(job.name, job.seconds, own, model=self.label, tasks=tasks))
            counts.pictures += 1
            counts.faces += len(own)

    def _leave_out(self, name: str, reason: str, counts: Counts) -> None:
        counts.left_out += 1
        self.report(reason if name in reason else f"{name}: {reason}")
