"""Finds copies: exact, recompressed, resized, brightened, mirrored, cropped, rotated, with a border.

Candidates come from a search by descriptors (`search.candidates`), and each is confirmed by laying one
image over the other (`alignment.align`).
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Iterable, Iterator
from concurrent import futures

import numpy as np

from softbio_jax.console import QUIET, Console
from softbio_jax.data.audit import alignment, search, thumbnails
from softbio_jax.data.audit.details import Details
from softbio_jax.data.audit.groups import Groups

# Among 14,074 real faces the pairs above this are one photograph or two of one moment, none are two
# people; of planted copies 98 % or more of every kind are above it, drawn faces rarely.
SIMILAR_FROM = 0.8
LARGE_GROUP = 8  # images, above which not every pair of a group is compared
_ROUND, _BATCH = 4096, 64
_THREADS = 8
_ROTATED_FROM = 1.5  # degrees
_CROPPED_BELOW = 0.97  # of an image in both


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two copies of one image: their numbers, first < second, and how they differ."""

    first: int
    second: int
    similarity: float  # mean correlation of their details, 0.8 to 1
    mirrored: bool = False
    exact: bool = False
    bordered: bool = False  # one has a border of one colour
    overlap: float = 1.0  # share of an image that both show, the smaller of the two shares
    rotation: float = 0.0  # degrees

    @property
    def kind(self) -> str:
        """The first that holds of exact, mirrored, rotated, bordered, cropped and near."""
        holds = {
            "exact": self.exact,
            "mirrored": self.mirrored,
            "rotated": abs(self.rotation) >= _ROTATED_FROM,
            "bordered": self.bordered,
            "cropped": self.overlap < _CROPPED_BELOW,
        }
        return next((kind for kind, true in holds.items() if true), "near")


def find(
    grey: np.ndarray, digests: np.ndarray, usable: np.ndarray, *, console: Console = QUIET
) -> list[Pair]:
    """Finds the pairs of copies: exact ones first, then the most similar.

    Of each group of byte-identical images only the first is compared with others. In a group of more
    than eight images not every pair is compared, but the pairs that are found connect it.

    Args:
      grey: (N, 64, 64) uint8, the thumbnails.
      digests: (N, 32) uint8, SHA-256 of the encoded images.
      usable: (N,) bool, False for images to skip (undecodable, constant).
      console: shows the progress.
    """
    exact = list(_exact(digests))
    groups = Groups(len(grey))
    for pair in exact:
        groups.join(pair.first, pair.second)
    first = usable.copy()
    first[[pair.second for pair in exact]] = False
    near = _near(grey, np.flatnonzero(first), groups, console)
    return sorted([*exact, *near], key=lambda p: (not p.exact, -p.similarity, p.first, p.second))


def _exact(digests: np.ndarray) -> Iterator[Pair]:
    groups: dict[bytes, list[int]] = {}
    for number, digest in enumerate(digests):
        groups.setdefault(digest.tobytes(), []).append(number)
    for group in groups.values():
        for second in group[1:]:
            yield Pair(group[0], second, 1.0, exact=True)


def _near(grey: np.ndarray, numbers: np.ndarray, groups: Groups, console: Console) -> Iterable[Pair]:
    if len(numbers) < 2:
        return []
    # An image with a border of one colour is compared with it and without.
    bordered, inner = thumbnails.without_borders(grey, numbers)
    images = np.empty((len(numbers) + len(inner), *grey.shape[1:]), np.uint8)
    np.take(grey, numbers, axis=0, out=images[: len(numbers)], mode="clip")  # without a second copy
    images[len(numbers) :] = inner
    del inner
    owner = np.concatenate([numbers, bordered])
    found = search.candidates(images, console=console)
    other = owner[found.first] != owner[found.second]
    found = search.Candidates(*(part[other] for part in found))
    prepared = Details(images)
    best: dict[tuple[int, int], Pair] = {}
    meter = console.meter("comparing the candidates", len(found.first), unit="pairs")
    with futures.ThreadPoolExecutor(min(os.cpu_count() or 1, _THREADS)) as pool:
        # Rounds of one size on every machine: what is left out does not depend on the number of cores.
        for start in range(0, len(found.first), _ROUND):
            console.check()
            part = search.Candidates(*(part[start : start + _ROUND] for part in found))
            needed = [
                groups.leader(a) != groups.leader(b) or groups.size(a) <= LARGE_GROUP
                for a, b in zip(owner[part.first].tolist(), owner[part.second].tolist(), strict=True)
            ]
            chosen = np.flatnonzero(needed)
            batches = [chosen[at : at + _BATCH] for at in range(0, len(chosen), _BATCH)]
            confirm = functools.partial(_confirm, prepared, owner, part, len(numbers))
            for pairs in pool.map(confirm, batches):
                for pair in pairs:
                    groups.join(pair.first, pair.second)
                    known = best.get((pair.first, pair.second))
                    if known is None or pair.similarity > known.similarity:
                        best[pair.first, pair.second] = pair
            meter.add(len(part.first))
    console.close()
    return best.values()


def _confirm(
    prepared: Details, owner: np.ndarray, part: search.Candidates, whole: int, rows: np.ndarray
) -> list[Pair]:
    """Returns the pairs among candidates that are copies; images from `whole` on had a border."""
    first, second, mirrored = part.first[rows], part.second[rows], part.mirrored[rows]
    found = alignment.align(prepared, first, second, mirrored)
    pairs = []
    for n in np.flatnonzero(found.similarity >= SIMILAR_FROM):
        low, high = sorted((int(owner[first[n]]), int(owner[second[n]])))
        pairs.append(
            Pair(
                low,
                high,
                float(found.similarity[n]),
                mirrored=bool(mirrored[n]),
                bordered=bool((first[n] >= whole) != (second[n] >= whole)),
                overlap=float(found.overlap[n]),
                rotation=float(found.rotation[n]),
            )
        )
    return pairs
