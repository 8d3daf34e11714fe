"""The pairs of images whose descriptors are most alike, by matrix products of bounded size."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from softbio_jax.console import QUIET, Console
from softbio_jax.data.audit import descriptors

MOST = 8  # candidates per image
_ALL_PAIRS = 64  # images, up to which every pair is a candidate
# Images, up to which every row has eight candidates, whatever their scores: descriptors fitted to few
# images suit the altered copies that they were fitted to better than other copies.
_FEW = 4096
_ROWS, _COLUMNS = 1024, 8192  # of one matrix product: 32 MB
_CROWDED = 8  # mean candidates of a row in one product, above which the product is thinned first
_BATCH = 2048


class Candidates(NamedTuple):
    """Pairs that may be copies: first < second; of a mirrored pair the second is to be mirrored."""

    first: np.ndarray  # (P,) int64
    second: np.ndarray  # (P,) int64
    mirrored: np.ndarray  # (P,) bool


def candidates(thumbnails: np.ndarray, *, console: Console = QUIET) -> Candidates:
    """Finds for every image the later ones that are most alike, at most eight of them.

    Args:
      thumbnails: (N, 64, 64) uint8, grey.
      console: shows the progress.

    Returns:
      The candidates, the most alike first.
    """
    count = len(thumbnails)
    if count <= _ALL_PAIRS:
        first, second = np.triu_indices(count, 1)
        mirrored = np.repeat([False, True], len(first))
        return Candidates(np.tile(first, 2), np.tile(second, 2), mirrored)
    projection = descriptors.fit(thumbnails)
    left, right, mirror = (np.empty((count, projection.matrix.shape[1] + 2), np.float32) for _ in range(3))
    for start in range(0, count, _BATCH):
        part = slice(start, start + _BATCH)
        features = descriptors.edges(thumbnails[part])
        left[part], right[part] = projection(features)
        mirror[part] = projection(descriptors.mirrored(features))[1]

    lowest = projection.lowest if count > _FEW else -np.inf
    meter = console.meter("searching for copies", count)
    found, scratch = [], _Scratch()
    for start in range(0, count, _ROWS):
        console.check()
        found.append(_best(left, right, mirror, start, lowest, scratch))
        meter.add(min(_ROWS, count - start))
    console.close()
    scores, first, second, mirrored = (np.concatenate(parts) for parts in zip(*found, strict=True))
    order = np.lexsort((mirrored, second, first, -scores))
    return Candidates(first[order], second[order], mirrored[order])


class _Scratch:
    """Memory that all products use in turn: to get 32 MB anew takes longer than to fill it."""

    def __init__(self) -> None:
        self._scores = np.empty(_ROWS * _COLUMNS, np.float32)
        self._above = np.empty(_ROWS * _COLUMNS, bool)

    def scores(self, rows: np.ndarray, others: np.ndarray) -> np.ndarray:
        """Returns `rows @ others.T`, until the next call."""
        shape = (len(rows), len(others))
        return np.matmul(rows, others.T, out=self._scores[: shape[0] * shape[1]].reshape(shape))

    def above(self, scores: np.ndarray, floor: np.ndarray) -> np.ndarray:
        """Returns the places of the scores above their rows' floors, in the flat array."""
        out = self._above[: scores.size].reshape(scores.shape)
        return np.flatnonzero(np.greater(scores, floor[:, None], out=out))


def _best(
    left: np.ndarray, right: np.ndarray, mirror: np.ndarray, start: int, lowest: float, scratch: _Scratch
) -> tuple[np.ndarray, ...]:
    """Returns scores, first, second and mirrored of the candidates of a block of rows."""
    rows = left[start : start + _ROWS]
    floor = np.full(len(rows), lowest, np.float32)
    kept: tuple[np.ndarray, ...] = (
        np.empty(0, np.float32),
        np.empty(0, np.int64),
        np.empty(0, np.int64),
        np.empty(0, bool),
    )
    for column in range(start, len(left), _COLUMNS):
        for mirrored, others in ((False, right), (True, mirror)):
            scores = scratch.scores(rows, others[column : column + _COLUMNS])
            if column < start + len(rows):  # only later images
                earlier = column + np.arange(scores.shape[1]) <= start + np.arange(len(rows))[:, None]
                scores[earlier] = -np.inf
            above = scratch.above(scores, floor)
            if len(above) > _CROWDED * len(rows) and scores.shape[1] > MOST:
                # Not less than the ninth: equal ones may be one image in several files.
                last = scores.shape[1] - 1 - MOST
                reached = np.partition(scores, last, axis=1)[:, last]
                above = above[scores.ravel()[above] >= reached[above // scores.shape[1]]]
            row, place = np.divmod(above, scores.shape[1])
            new = (scores[row, place], row, column + place, np.full(len(row), mirrored))
            kept = _thinned(tuple(map(np.concatenate, zip(kept, new, strict=True))), floor)
    return kept[0], kept[1] + start, kept[2], kept[3]


def _thinned(kept: tuple[np.ndarray, ...], floor: np.ndarray) -> tuple[np.ndarray, ...]:
    """Keeps the best candidates of every row, and raises the floor of full rows to the last of them."""
    scores, rows, second, mirrored = kept
    order = np.lexsort((mirrored, second, -scores, rows))
    rows = rows[order]
    rank = np.arange(len(rows)) - np.searchsorted(rows, rows)
    order, rows, rank = order[rank < MOST], rows[rank < MOST], rank[rank < MOST]
    full = rank == MOST - 1
    floor[rows[full]] = np.maximum(floor[rows[full]], scores[order[full]])
    return scores[order], rows, second[order], mirrored[order]
