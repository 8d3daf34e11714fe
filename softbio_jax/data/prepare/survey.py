"""A look at the labels of a split before any image is decoded, and the plot of its classes after."""

from __future__ import annotations

import collections
import dataclasses
import os
import pathlib
import random
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from softbio_jax.data import decode, sources
from softbio_jax.data.prepare.rows import Outcome, Rejection, Row
from softbio_jax.errors import UserError
from softbio_jax.escaping import one_line, printable
from softbio_jax.tasks import MISSING, TASKS

_LISTED = 5  # missing files, and rejected rows
_SAMPLE = 64  # images whose sizes are looked up
# Crops of faces are nearly square, and those of data sets are small. An image of this side and
# this long is more likely a photograph with a face somewhere in it.
_LONG_SIDE = 400  # pixels
_RATIO = 1.25
_LINES, _ACROSS, _SIDE = 3, 9, 48  # images that are plotted: in a column, in a line, pixels of each


@dataclasses.dataclass(frozen=True, kw_only=True)
class SplitSurvey:
    """The rows of a split and what is missing.

    Args:
      rows: number of rows, including those that will be skipped or rejected.
      labelled: number of rows that name an image.
      classes: task -> (C,) number of labelled rows of each class.
      missing: number of rows whose image file does not exist; 0 if that was not looked up.
      first_missing: the first few of these files.
      rejected: reason -> number of rows that will be rejected for it; without broken images.
      first_rejected: the first few of these rows.
      sizes: (height, width) in pixels of some images, by path.
    """

    rows: int
    labelled: int = 0
    classes: dict[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)
    missing: int = 0
    first_missing: tuple[str, ...] = ()
    rejected: dict[str, int] = dataclasses.field(default_factory=dict)
    first_rejected: tuple[Rejection, ...] = ()
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

    def check_rejected(self, split: str, *, max_rejected: float) -> None:
        """Raises UserError if more than this share of the rows will be rejected."""
        count = sum(self.rejected.values())
        if count > max_rejected * self.rows:
            raise UserError(
                "too many rows will be rejected",
                where=f"split {split!r}",
                expected=f"at most {max_rejected:.1%} of the rows",
                found=f"{count:,} of {self.rows:,} ({self.first_rejected[0]})",
                fix="repair the source, or raise --max_rejected",
            )


def survey(rows: Iterable[Outcome], *, files: bool, sizes: bool = False) -> SplitSurvey:
    """Iterates over the rows of a split, which checks their labels.

    With `files` it also looks for the image files and for duplicate rows, with
    `sizes` it reads those of some images.
    """
    count, labelled, missing = 0, 0, 0
    first: list[str] = []
    classes: dict[str, collections.Counter[int]] = collections.defaultdict(collections.Counter)
    sample: list[Row] = []
    chance = random.Random(0)
    rejected: collections.Counter[str] = collections.Counter()
    first_rejected: list[Rejection] = []
    ids: set[int] = set()

    def reject(rejection: Rejection) -> None:
        rejected[rejection.reason] += 1
        if len(first_rejected) < _LISTED:
            first_rejected.append(rejection)

    for row in rows:
        count += 1
        if isinstance(row, Rejection):
            reject(row)
        if not isinstance(row, Row):
            continue
        labelled += 1
        for task, label in row.labels.items():
            classes[task][label] += 1
        readable = isinstance(row.image, pathlib.Path | bytes)
        if sizes and row.box is None and readable:  # each is in the sample with the same probability
            place = len(sample) if len(sample) < _SAMPLE else chance.randrange(labelled)
            sample[place : place + 1] = [row] if place < _SAMPLE else []
        if not files or not isinstance(row.image, pathlib.Path):
            continue
        if hash(row.id) in ids:
            reject(Rejection(row.id, "duplicate row", where=row.where))
        ids.add(hash(row.id))
        if not os.path.isfile(row.image):  # a path may be too long for a file
            missing += 1
            if len(first) < _LISTED:
                first.append(one_line(printable(str(row.image))))
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
        rejected=dict(rejected),
        first_rejected=tuple(first_rejected),
        sizes={name: size for row in sample for name, size in _size(row)},
    )


def _size(row: Row) -> Iterator[tuple[str, tuple[int, int]]]:
    """Yields the name and the (height, width) of an image, nothing for a broken or missing one."""
    image = row.image
    if isinstance(image, bytes):
        name = row.id
    elif isinstance(image, pathlib.Path) and os.path.isfile(image):  # a pipe may never end
        name = str(image)
    else:
        return
    if (size := decode.size_of(image)) is not None:
        yield name, size


def plot_classes(splits: Mapping[str, Any], path: pathlib.Path) -> None:
    """Writes a PNG with the class counts of a prepared folder, and images of each class under its bar.

    Nothing is written for images without labels.

    Args:
      splits: a report's "splits".
      path: the file to write, in the prepared folder.
    """
    from matplotlib.figure import Figure

    tasks = list(dict.fromkeys(task for part in splits.values() for task in part["class_counts"]))
    if not tasks:
        return
    figure = Figure(figsize=(4.8 * len(tasks), 5 * len(splits)), layout="constrained")
    grid = figure.subplots(2 * len(splits), len(tasks), squeeze=False)
    for number, (split, part) in enumerate(splits.items()):
        dataset = sources.open_prepared(path.parent, split)
        for place, task in enumerate(tasks):
            counts = part["class_counts"][task]
            axes, below = grid[2 * number : 2 * number + 2, place]
            bars = axes.bar(range(len(counts)), list(counts.values()), color="tab:blue")
            axes.bar_label(bars, fontsize=7)
            _name_classes(axes, counts, title=f"{split}: {task}")
            axes.margins(y=0.15)
            axes.set_xlim(-0.5, len(counts) - 0.5)
            sheet = _examples(dataset, task, len(counts))
            height = len(counts) * sheet.shape[0] / sheet.shape[1]  # in widths of a class
            below.imshow(sheet, extent=(-0.5, len(counts) - 0.5, 0, height))
            below.set_axis_off()
            below.set_anchor("N")
    figure.savefig(path, dpi=110)


def _name_classes(axes: Any, counts: Mapping[str, int], *, title: str) -> None:
    """Writes the names below the bars and the title; what has no image is red and says so."""
    names = [name if n else f"{name}\nno image" for name, n in counts.items()]
    axes.set_xticks(range(len(counts)), names, rotation=45, fontsize=8)
    for label, n in zip(axes.get_xticklabels(), counts.values(), strict=True):
        label.set_color("black" if n else "tab:red")
    title += "" if any(counts.values()) else " (no label)"
    axes.set_title(title, fontsize=10, color="black" if all(counts.values()) else "tab:red")


def _examples(dataset: sources.PreparedDataset, task: str, classes: int) -> np.ndarray:
    """Returns some images of each class of a task, classes side by side, white where there is none."""
    across = max(1, _ACROSS // classes)
    sheet = np.full((_LINES, _SIDE, classes, across, _SIDE, 3), 255, np.uint8)
    for label in range(classes):
        rows = np.flatnonzero(dataset.labels[task] == label)
        spread = np.unique(np.linspace(0, len(rows) - 1, min(len(rows), _LINES * across)).astype(int))
        for place, row in enumerate(rows[spread]):
            image = decode.decode_full(dataset[row], at_least=2 * _SIDE)
            sheet[place // across, :, label, place % across] = decode.squash(image, _SIDE)
    return sheet.reshape(_LINES * _SIDE, classes * across * _SIDE, 3)
