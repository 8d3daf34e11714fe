"""Finds exact and near duplicates: recompressed, resized, brightened or mirrored copies of an image."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from concurrent import futures

import numpy as np

from softbio_jax.console import QUIET, Console
from softbio_jax.data import decode
from softbio_jax.data.sources import PreparedDataset

THUMBNAIL = 32  # side of the grey thumbnails in pixels: 1 kB of memory per image
_CHUNK = 256
# Correlations of grey thumbnails, coarse (16 x 16) to find candidates, fine (32 x 32) to confirm.
# Among 10,000 aligned faces of different people no pair passes both; copies at JPEG quality 20 do.
_COARSE = 16
COARSE_FROM = 0.975
FINE_FROM = 0.965
_BLOCK = 2048
_FLAT = 1e-3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scan:
    """Thumbnails and sizes of N images."""

    thumbnails: np.ndarray  # (N, 32, 32) uint8, grey
    sizes: np.ndarray  # (N, 2) int32, height and width in pixels
    problems: dict[int, str]  # example -> why its image does not decode


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two copies of one image: their numbers, first < second, and their similarity."""

    first: int
    second: int
    similarity: float
    mirrored: bool
    exact: bool


def scan(dataset: PreparedDataset, *, console: Console = QUIET) -> Scan:
    """Decodes every image of a data set, on all cores, and keeps 1 kB of each."""
    thumbnails = np.zeros((len(dataset), THUMBNAIL, THUMBNAIL), np.uint8)
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
    """Decodes an image to a (32, 32) uint8 grey thumbnail and its (height, width) in pixels.

    Raises:
      UndecodableImage: not an image, or a broken one.
    """
    import cv2

    grey, size = _grey(data)
    return cv2.resize(grey, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA), size


def find(thumbnails: np.ndarray, digests: np.ndarray, usable: np.ndarray) -> list[Pair]:
    """Finds all pairs of equal or nearly equal images: exact ones first, then the most similar.

    Args:
      thumbnails: (N, 32, 32) uint8, grey.
      digests: (N, 32) uint8, SHA-256 of the encoded images.
      usable: (N,) bool, False for images to skip (undecodable, constant).
    """
    pairs = {(pair.first, pair.second): pair for pair in _near(thumbnails, usable)}
    pairs |= {(pair.first, pair.second): pair for pair in _exact(digests)}
    return sorted(pairs.values(), key=lambda p: (not p.exact, -p.similarity, p.first, p.second))


def spread(thumbnails: np.ndarray) -> np.ndarray:
    """Returns the standard deviation (N,) of each thumbnail's grey values, 0 to 127."""
    return thumbnails.reshape(len(thumbnails), -1).std(axis=1)


def _grey(data: bytes) -> tuple[np.ndarray, tuple[int, int]]:
    import cv2
    import simplejpeg

    if data[:2] == b"\xff\xd8":
        try:
            height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
            if colours != "CMYK":
                # Decoding at an eighth of the size takes an eighth of the time.
                side = 2 * THUMBNAIL
                grey = simplejpeg.decode_jpeg(data, colorspace="GRAY", min_height=side, min_width=side)
                return grey[..., 0], (height, width)
        except ValueError:
            pass  # the full decoder decides
    image = decode.decode_full(data)
    return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), image.shape[:2]


def _exact(digests: np.ndarray) -> Iterator[Pair]:
    groups: dict[bytes, list[int]] = {}
    for number, digest in enumerate(digests):
        groups.setdefault(digest.tobytes(), []).append(number)
    for group in groups.values():
        for second in group[1:]:
            yield Pair(group[0], second, 1.0, mirrored=False, exact=True)


def _near(thumbnails: np.ndarray, usable: np.ndarray) -> Iterator[Pair]:
    numbers = np.flatnonzero(usable)
    factor = thumbnails.shape[1] // _COARSE
    coarse = thumbnails[numbers].reshape(-1, _COARSE, factor, _COARSE, factor).mean(axis=(2, 4))
    straight, mirror = _unit(coarse), _unit(coarse[:, :, ::-1])
    for start in range(0, len(numbers), _BLOCK):
        for mirrored, others in ((False, straight), (True, mirror)):
            alike = straight[start : start + _BLOCK] @ others[start:].T
            for a, b in np.argwhere(alike >= COARSE_FROM):
                if a < b:
                    first, second = int(numbers[start + a]), int(numbers[start + b])
                    similarity = _fine(thumbnails[first], thumbnails[second], mirrored)
                    if similarity >= FINE_FROM:
                        yield Pair(first, second, similarity, mirrored, exact=False)


def _fine(first: np.ndarray, second: np.ndarray, mirrored: bool) -> float:
    a, b = _unit(np.stack([first, second[:, ::-1] if mirrored else second]))
    return float(a @ b)


def _unit(images: np.ndarray) -> np.ndarray:
    """Flattens images to vectors of mean 0 and norm 1; constant ones become 0."""
    flat = images.reshape(len(images), -1).astype(np.float32)
    flat = flat - flat.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(flat, axis=1, keepdims=True)
    return np.where(norms > _FLAT, flat / np.maximum(norms, _FLAT), 0)
