"""A look at the labels of a split before any image is decoded, and the plot of its classes after."""

from __future__ import annotations

import collections
import dataclasses
import pathlib
import random
from collections.abc import Iterable, Mapping
from typing import Any

from softbio_jax.data.prepare.rows import Outcome, Row
from softbio_jax.errors import UserError
from softbio_jax.tasks import MISSING, TASKS

_LISTED = 5  # missing files
_SAMPLE = 64  # images whose sizes are looked up
# Crops of faces are nearly square, and those of data sets are small. An image of this side and
# this long is more likely a photograph with a face somewhere in it.
_LONG_SIDE = 400  # pixels
_RATIO = 1.25


@dataclasses.dataclass(frozen=True, kw_only=True)
class SplitSurvey:
    """The rows of a split and what is missing.

    Args:
      rows: number of rows, including those that will be skipped or rejected.
      labelled: number of rows that name an image.
      classes: task -> (C,) number of labelled rows of each class.
      missing: number of rows whose image file does not exist; 0 if that was not looked up.
      first_missing: the first few of these files.
      sizes: (height, width) in pixels of some images, by path.
    """

    rows: int
    labelled: int = 0
    classes: dict[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)
    missing: int = 0
    first_missing: tuple[str, ...] = ()
    sizes: dict[str, tuple[int, int]] = dataclasses.field(default_factory=dict)

    def check_crops(self, split: str) -> None:
        """Raises UserError if most of the images of known size look like photographs."""
        found = {
            path: (height, width)
            for path, (height, width) in self.sizes.items()
            if max(height, width) >= max(_LONG_SIDE, _RATIO * min(height, width))
        }
        if 2 * len(found) > len(self.sizes):
            path, (height, width) = min(found.items())
            raise UserError(
                "photographs instead of faces",
                where=f"split {split!r}",
                expected="images of one face each, about square",
                found=f"{len(found)} of {len(self.sizes)} that were looked at are large and "
                f"oblong, such as {path} of {width} x {height} pixels",
                fix="pass --faces to cut the faces out, or --nofaces if they are faces",
            )

    def check_files(self, split: str, *, max_rejected: float) -> None:
        """Raises UserError if more than this share of the rows have no image file."""
        if self.missing > max_rejected * self.rows:
            raise UserError(
                "too many images are missing",
                where=f"split {split!r}",
                expected=f"at most {max_rejected:.1%} of the rows",
                found=f"{self.missing:,} of {self.rows:,} ({self.first_missing[0]}, ...)",
                fix="complete the source, or raise --max_rejected",
            )


def survey(rows: Iterable[Outcome], *, files: bool, sizes: bool = False) -> SplitSurvey:
    """Iterates over the rows of a split, which checks their labels.

    With `files` it also looks for the image files, with `sizes` it reads those of some images.
    """
    count, labelled, missing = 0, 0, 0
    first: list[str] = []
    classes: dict[str, collections.Counter[int]] = collections.defaultdict(collections.Counter)
    sample: list[pathlib.Path] = []
    chance = random.Random(0)
    for row in rows:
        count += 1
        if not isinstance(row, Row):
            continue
        labelled += 1
        for task, label in row.labels.items():
            classes[task][label] += 1
        if not isinstance(row.image, pathlib.Path):
            continue
        if sizes and row.box is None:  # each row is in the sample with the same probability
            place = len(sample) if len(sample) < _SAMPLE else chance.randrange(labelled)
            sample[place : place + 1] = [row.image] if place < _SAMPLE else []
        if files and not row.image.is_file():
            missing += 1
            if len(first) < _LISTED:
                first.append(str(row.image))
    return SplitSurvey(
        rows=count,
        labelled=labelled,
        classes={
            task: tuple(counter[label] for label in range(TASKS[task].num_classes))
            for task, counter in classes.items()
            if counter.keys() - {MISSING}
        },
        missing=missing,
        first_missing=tuple(first),
        sizes={str(path): size for path in sample if (size := _size(path)) is not None},
    )


def _size(path: pathlib.Path) -> tuple[int, int] | None:
    from PIL import Image

    if not path.is_file():  # a pipe may never end
        return None
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except Exception:  # broken and missing images are reported when they are read
        return None


def plot_classes(splits: Mapping[str, Any], path: pathlib.Path) -> None:
    """Writes a PNG with one histogram per split and task of a report's "splits"."""
    from matplotlib.figure import Figure

    tasks = list(dict.fromkeys(task for part in splits.values() for task in part["class_counts"]))
    figure = Figure(figsize=(4.2 * len(tasks), 2.6 * len(splits)), layout="constrained")
    grid = figure.subplots(len(splits), len(tasks), squeeze=False)
    for line, (split, part) in zip(grid, splits.items(), strict=True):
        for axes, task in zip(line, tasks, strict=True):
            counts = part["class_counts"][task]
            bars = axes.bar(range(len(counts)), list(counts.values()), color="tab:blue")
            axes.bar_label(bars, fontsize=7)
            axes.set_xticks(range(len(counts)), list(counts), rotation=45, fontsize=8)
            axes.set_title(f"{split}: {task}", fontsize=10)
            axes.margins(y=0.15)
    figure.savefig(path, dpi=110)
