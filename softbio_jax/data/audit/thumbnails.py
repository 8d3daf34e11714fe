"""Small grey versions of all images, from which copies are found."""

from __future__ import annotations

import dataclasses
import os
from concurrent import futures

import numpy as np

from softbio_jax.console import QUIET, Console
from softbio_jax.data import decode
from softbio_jax.data.sources import PreparedDataset

SIDE = 64  # of the thumbnails in pixels: 4 kB of memory per image
_CHUNK = 256
_LINE_RANGE = 12  # grey levels: a line with a smaller range has one colour
_WIDEST = 14  # lines of a border at each side, of 64


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scan:
    """Thumbnails and sizes of N images."""

    thumbnails: np.ndarray  # (N, 64, 64) uint8, grey
    sizes: np.ndarray  # (N, 2) int32, height and width in pixels
    problems: dict[int, str]  # example -> why its image does not decode


def scan(dataset: PreparedDataset, *, console: Console = QUIET) -> Scan:
    """Decodes every image of a data set, on all cores, and keeps 4 kB of each."""
    thumbnails = np.zeros((len(dataset), SIDE, SIDE), np.uint8)
    sizes = np.zeros((len(dataset), 2), np.int32)
    problems: dict[int, str] = {}

    def scan_chunk(start: int) -> int:
        stop = min(start + _CHUNK, len(dataset))
        for example in range(start, stop):
            try:
                thumbnails[example], sizes[example] = thumbnail(dataset[example])
            except decode.UndecodableImage as error:
                problems[example] = str(error)
        return stop - start

    meter = console.meter(f"auditing {dataset.name}/{dataset.split}", len(dataset))
    with futures.ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for done in pool.map(scan_chunk, range(0, len(dataset), _CHUNK)):
            console.check()
            meter.add(done)
    console.close()
    return Scan(thumbnails=thumbnails, sizes=sizes, problems=problems)


def thumbnail(data: bytes) -> tuple[np.ndarray, tuple[int, int]]:
    """Decodes an image to a (64, 64) uint8 grey thumbnail and its (height, width) in pixels.

    Raises:
      UndecodableImage: not an image, or a broken one.
    """
    import cv2

    # A JPEG is decoded at a fraction of its size, in a fraction of the time.
    image = decode.decode_full(data, at_least=SIDE)
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    method = cv2.INTER_AREA if max(grey.shape) > SIDE else cv2.INTER_LINEAR
    return cv2.resize(grey, (SIDE, SIDE), interpolation=method), _size(data, image.shape[:2])


def _size(data: bytes, decoded: tuple[int, int]) -> tuple[int, int]:
    import simplejpeg

    if data[:2] == b"\xff\xd8":
        try:
            height, width, _, _ = simplejpeg.decode_jpeg_header(data)
        except ValueError:
            return decoded
        if max(height, width) != max(decoded):  # not decoded at its full size, nor turned by EXIF
            return height, width
    return decoded


def spread(thumbnails: np.ndarray) -> np.ndarray:
    """Returns the standard deviation (N,) of each thumbnail's grey values, 0 to 127."""
    deviations = np.empty(len(thumbnails))
    for start in range(0, len(thumbnails), _CHUNK):
        part = thumbnails[start : start + _CHUNK]
        deviations[start : start + _CHUNK] = part.reshape(len(part), -1).std(axis=1)
    return deviations


def without_borders(thumbnails: np.ndarray, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cuts borders of one colour.

    Args:
      thumbnails: (N, 64, 64) uint8, grey.
      numbers: (M,) the thumbnails to look at.

    Returns:
      (K,) the numbers of the thumbnails that have a border, and (K, 64, 64) uint8, what is inside.
    """
    import cv2

    kept, inner = [], []
    for start in range(0, len(numbers), _CHUNK):
        part = thumbnails[numbers[start : start + _CHUNK]]
        edges = np.stack([part[:, 0], part[:, -1], part[:, :, 0], part[:, :, -1]], axis=1)
        for place in np.flatnonzero((np.ptp(edges, axis=2) <= _LINE_RANGE).any(axis=1)):
            image = part[place]
            top, bottom = _inside(np.ptp(image, axis=1))
            left, right = _inside(np.ptp(image[top:bottom], axis=0))
            cut = image[top:bottom, left:right]
            if cut.shape != image.shape:
                kept.append(numbers[start + place])
                inner.append(cv2.resize(cut, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR))
    return np.array(kept, np.int64), np.array(inner, np.uint8).reshape(-1, SIDE, SIDE)


def _inside(ranges: np.ndarray) -> tuple[int, int]:
    """Returns the first and the end of the lines that are no border, at most 14 cut at each side."""
    busy = np.flatnonzero(ranges > _LINE_RANGE)
    if not len(busy):
        return 0, len(ranges)
    first, last = int(busy[0]), int(busy[-1])
    # The line beside a border is a mixture of both.
    first, last = first + (first > 0), last - (last < len(ranges) - 1)
    return min(first, _WIDEST), max(last + 1, len(ranges) - _WIDEST)
