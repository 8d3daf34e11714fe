"""The demo's data: drawn faces in four training sources and four test sets.

They have the label masks, sizes and class shares of real data sets, but accuracies on them say
nothing about photographs of people.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from softbio_jax.data.drawing.appearance import Style, sample_face
from softbio_jax.data.drawing.face import Face, factors
from softbio_jax.data.drawing.rendering import render
from softbio_jax.data.prepare import tables
from softbio_jax.data.prepare.base import BUILDERS, FaceBuilder
from softbio_jax.data.prepare.rows import Outcome, Row
from softbio_jax.data.prepare.storage import encode
from softbio_jax.data.prepare.survey import SplitSurvey
from softbio_jax.errors import UserError
from softbio_jax.tasks import MISSING, TASKS

# Class shares of tasks that a set does not label, which are drawn nevertheless.
_AGES_UNSEEN = (2, 12, 11, 31, 22, 12, 6, 3, 1)
_AGES_FAMOUS = (0, 1, 6, 38, 30, 14, 7, 3, 1)
_MOODS_UNSEEN = (5, 3, 3, 42, 8, 5, 34)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FaceSet:
    """One synthetic data set.

    Args:
      size: number of rows of the data set that it imitates.
      tasks: the tasks that it labels.
      age, gender, emotion: relative class frequencies.
      style: the look of its images.
      age_noise: share of the rows whose age label is one or two classes off.
    """

    size: int
    tasks: tuple[str, ...]
    age: tuple[int, ...]
    gender: tuple[int, int]
    emotion: tuple[int, ...] = _MOODS_UNSEEN
    style: Style = Style()
    age_noise: float = 0.0


_FAIRFACE = Style(scale=0.8, warmth=0.01)
_RAF_DB = Style(scale=0.88, scale_spread=0.02, tilt=0.04, blur=0.6, noise=6)
SOURCES: dict[str, FaceSet] = {
    "synthetic_fairface": FaceSet(
        size=69_395,
        tasks=("age", "gender"),
        age=(1415, 8272, 7312, 20486, 15396, 8618, 4995, 2240, 661),
        gender=(36_877, 32_518),
        style=_FAIRFACE,
    ),
    "synthetic_lagenda": FaceSet(
        size=67_352,
        tasks=("age", "gender"),
        age=(1520, 7427, 8720, 9298, 9066, 9358, 9418, 8378, 4167),
        gender=(33_218, 34_134),
        style=Style(scale=0.84, scale_spread=0.04, tilt=0.08, noise=9),
    ),
    "synthetic_celeba_hq": FaceSet(
        size=22_400,
        tasks=("gender",),
        age=_AGES_FAMOUS,
        gender=(8_084, 14_316),
        style=Style(scale=0.78, tilt=0.04, brightness=1.03, warmth=0.02, blur=0.2, noise=3),
    ),
    "synthetic_raf_db": FaceSet(
        size=9_215,
        tasks=("gender", "emotion"),
        age=_AGES_UNSEEN,
        gender=(3_968, 5_247),
        emotion=(912, 218, 544, 3701, 1301, 556, 1983),
        style=_RAF_DB,
    ),
}
TEST_SETS: dict[str, FaceSet] = {
    "synthetic_fairface": FaceSet(
        size=10_954,
        tasks=("age", "gender"),
        age=(199, 1356, 1181, 3300, 2330, 1353, 796, 321, 118),
        gender=(5_792, 5_162),
        style=_FAIRFACE,
    ),
    "synthetic_utkface": FaceSet(
        size=24_102,
        tasks=("age", "gender"),
        age=(1812, 1521, 1555, 7367, 4544, 2248, 2308, 1333, 1414),
        gender=(12_581, 11_521),
        style=Style(scale=0.83, tilt=0.05, warmth=-0.02, blur=0.7),
    ),
    "synthetic_raf_db": FaceSet(
        size=2_869,
        tasks=("gender", "emotion"),
        age=_AGES_UNSEEN,
        gender=(1_249, 1_620),
        emotion=(297, 74, 158, 1141, 386, 159, 654),
        style=_RAF_DB,
    ),
    "synthetic_vggface2": FaceSet(
        size=169_372,
        tasks=("age", "gender"),
        age=(10, 795, 5782, 46198, 51510, 32332, 24082, 7758, 905),
        gender=(59, 41),
        style=Style(scale=0.79, tilt=0.08, brightness=0.95, noise=9),
        age_noise=0.25,
    ),
}
_SPLITS = {"train": SOURCES, "test": TEST_SETS}
# The pretext's faces: every class equally often, the widest style.
_PRETEXT = FaceSet(
    size=10_000,
    tasks=(),
    age=(1,) * 9,
    gender=(1, 1),
    emotion=(1,) * 7,
    style=Style(scale=0.83, scale_spread=0.045, tilt=0.07, blur=0.6, noise=8),
)


class Drawn(NamedTuple):
    """One row: its image (S, S, 3) uint8, its labels by task, and the face's parameters."""

    image: np.ndarray
    labels: dict[str, int]
    face: Face


def composite_counts(total: int) -> dict[str, int]:
    """Divides a number of training rows among the sources in proportion to their sizes.

    Returns:
      source -> rows, which sum to `total`; the largest remainders are rounded up.
    """
    size = sum(source.size for source in SOURCES.values())
    exact = {name: total * source.size / size for name, source in SOURCES.items()}
    counts = {name: int(share) for name, share in exact.items()}
    by_remainder = sorted(exact, key=lambda name: counts[name] - exact[name])
    for name in by_remainder[: total - sum(counts.values())]:
        counts[name] += 1
    return counts


def draw(source: str, split: str, row: int, *, size: int, seed: int) -> Drawn:
    """Draws one row, which depends only on these arguments.

    Args:
      source: a key of SOURCES (split "train") or of TEST_SETS (split "test").
      split: "train" or "test"; no two splits share a random stream.
      row: the row's number, from 0.
      size: the image's side S in pixels, at least 16.
      seed: of the faces.

    Returns:
      The image, the labels (MISSING for tasks that the set does not label), the parameters.

    Raises:
      UserError: an unknown source or split, or a size below 16.
    """
    return _draw(_find(source, split), f"{source}/{split}", row, size=size, seed=seed)


def rows(
    source: str, split: str, *, size: int, seed: int, count: int | None = None
) -> Iterator[tuple[str, bytes, dict[str, int]]]:
    """Draws the first `count` rows of a synthetic set, by default all; other arguments as of `draw`.

    Yields:
      (id, image as a JPEG of quality 95, labels by task).
    """
    for row in range(_find(source, split).size if count is None else count):
        drawn = draw(source, split, row, size=size, seed=seed)
        yield f"{source}-{split}-seed{seed}-{row:06d}", encode(drawn.image, "jpeg", quality=95), drawn.labels


def pretext_rows(*, size: int, seed: int, count: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Draws faces to pretrain an encoder, with drawing parameters as targets instead of classes.

    Args:
      size: the images' side S in pixels.
      seed: of the faces, none of which is in a synthetic set.
      count: number of rows.

    Yields:
      (image (S, S, 3) uint8, factors (F,) float32 as in `face.FACTORS`).
    """
    for row in range(count):
        drawn = _draw(_PRETEXT, "pretext", row, size=size, seed=seed)
        yield drawn.image, factors(drawn.face)


def _find(source: str, split: str) -> FaceSet:
    tables.require_choice(split, _SPLITS, what="unknown split", where=source)
    tables.require_choice(source, _SPLITS[split], what="unknown synthetic set", where=f"split {split}")
    return _SPLITS[split][source]


def _draw(found: FaceSet, stream: str, row: int, *, size: int, seed: int) -> Drawn:
    if size < 16:
        raise UserError(
            "too small to draw", where="size", expected=">= 16", found=str(size), fix="draw larger images"
        )
    key = zlib.crc32(stream.encode())
    rng = np.random.default_rng((seed, key, row))
    classes = _classes(found, row, np.random.default_rng((seed, key)).random(3))
    looks = dict(classes)
    if rng.random() < found.age_noise:
        off = int(rng.choice((-2, -1, -1, -1, 1, 1, 1, 2)))
        looks["age"] = min(max(classes["age"] + off, 0), len(found.age) - 1)
    face = sample_face(**looks, style=found.style, rng=rng)
    labels = {task: classes[task] if task in found.tasks else MISSING for task in TASKS}
    return Drawn(render(face, rng, size), labels, face)


# Powers of 1 / g with g^4 = g + 1: multiples of them, modulo 1, fill the unit cube evenly.
_STEPS = np.array([0.8191725133961645, 0.6710436067037893, 0.5497004779019703])


def _classes(found: FaceSet, row: int, start: np.ndarray) -> dict[str, int]:
    """Returns a row's classes, from an even sequence: any range of rows has the set's class shares."""
    place = (start + (row + 1) * _STEPS) % 1
    classes = {}
    for task, u in zip(("age", "gender", "emotion"), place, strict=True):
        shares = np.cumsum(getattr(found, task))
        classes[task] = int(np.searchsorted(shares, u * shares[-1], side="right"))
    return classes


@BUILDERS.register("synthetic")
class Synthetic(FaceBuilder):
    """Draws a source or test set.

    Args:
      source: the set's name; its splits are "train" (SOURCES), "test" (TEST_SETS), or both.
      size: side of the images in pixels.
      seed: of the faces; the same seed gives the same bytes.
      count, test_count: number of rows of each split, 0 for none; None: those of the data set it imitates.
      **kwargs: see FaceBuilder.
    """

    name = "synthetic"

    def __init__(
        self,
        *,
        source: str,
        size: int = 64,
        seed: int = 0,
        count: int | None = None,
        test_count: int | None = None,
        **kwargs: Any,
    ):
        tables.require_choice(source, SOURCES | TEST_SETS, what="unknown synthetic set", where="--source")
        self.sets = {split: sets[source] for split, sets in _SPLITS.items() if source in sets}
        self.set_name, self.size, self.seed = source, size, seed
        self.counts = {"train": count, "test": test_count}
        labelled = {task for face_set in self.sets.values() for task in face_set.tasks}
        self.TASKS = tuple(task for task in TASKS if task in labelled)
        super().__init__(source=source, **kwargs)

    def splits(self) -> tuple[str, ...]:
        drawn = tuple(split for split in self.sets if self.counts[split] != 0)
        if not drawn:
            where, fix = f"--source={self.set_name}", "give a --count or --test_count above 0"
            raise UserError("nothing to draw", where=where, expected="images", found="none", fix=fix)
        return drawn

    def survey(self, split: str, *, files: bool = False) -> SplitSurvey:
        count = self.counts[split]  # counting drawn rows would double the time
        return SplitSurvey(rows=self.sets[split].size if count is None else count)

    def protocol(self) -> dict[str, str]:
        return {"set": self.set_name, "size": str(self.size), "seed": str(self.seed)}

    def rows(self, split: str) -> Iterator[Outcome]:
        count = self.counts[split]
        for row_id, image, labels in rows(self.set_name, split, size=self.size, seed=self.seed, count=count):
            yield Row(id=row_id, image=image, labels=labels)
