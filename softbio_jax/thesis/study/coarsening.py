"""Copies of a prepared set whose age classes are coarsened to the ranges of another set, for some rows."""

import dataclasses
import json
import pathlib
import shutil
from collections.abc import Sequence

import numpy as np

from softbio_jax import files
from softbio_jax.data import index as index_lib
from softbio_jax.data.builders.words import AGE_RANGE, class_of_range
from softbio_jax.data.index import Index
from softbio_jax.data.sources import train_val
from softbio_jax.tasks import AGE, AGE_SPANS, MISSING

# Source: the label lists of the two releases.
RANGES = {
    "rafdb": ("0-3", "4-19", "20-39", "40-69", "70+"),
    "adience": ("0-2", "4-6", "8-13", "15-20", "25-32", "38-43", "48-53", "60-100"),
}
_OLDEST = 90  # of the years that a drawn person of the class 70+ may have


def coarsened_rows(size: int, *, seed: int, val_fraction: float, split_seed: int) -> np.ndarray:
    """Returns half of the rows that a run trains on, ascending; its validation rows keep their classes."""
    train, _ = train_val(size, seed=split_seed, val_fraction=val_fraction)
    rng = np.random.Generator(np.random.Philox(seed))
    return np.sort(rng.choice(train, len(train) // 2, replace=False))


def ranges_of(labels: np.ndarray, ranges: Sequence[str], *, seed: int) -> np.ndarray:
    """Returns the range (n,) str that each class (n,) is coarsened to.

    A year is drawn uniformly within the class, again while it is in a gap between the ranges, and the
    range is the one that holds it.
    """
    ends = [range_.rstrip("+").split("-") for range_ in ranges]
    bounds = {
        word: (int(first), int(rest[0]) if rest else _OLDEST)
        for word, (first, *rest) in zip(ranges, ends, strict=True)
    }
    rng = np.random.Generator(np.random.Philox(seed))
    found = np.empty(len(labels), object)
    for label, (first, end) in enumerate(AGE_SPANS):
        years = np.arange(first, min(end, _OLDEST))
        held = [word for year in years for word, (a, b) in bounds.items() if a <= year <= b]
        rows = np.flatnonzero(labels == label)
        chosen = rng.integers(len(held), size=len(rows))
        found[rows] = [held[i] for i in chosen]
    return found.astype(str)


def coarsened(index: Index, rows: np.ndarray, ranges: Sequence[str], *, seed: int) -> Index:
    """Returns an index whose `rows` have a range: the class where it lies inside one, else no label."""
    words = ranges_of(index.labels[AGE.name][rows], ranges, seed=seed)
    labels = index.labels[AGE.name].copy()
    labels[rows] = [class_of_range(word, where=f"row {row}") for word, row in zip(words, rows, strict=True)]
    column = np.full(len(index), "", dtype=f"U{max(map(len, ranges))}")
    column[rows] = words
    return dataclasses.replace(
        index,
        labels=index.labels | {AGE.name: labels.astype(np.int32)},
        columns=index.columns | {AGE_RANGE: column},
    )


def write(
    source: pathlib.Path, out: pathlib.Path, *, ranges: str, seed: int, val_fraction: float, split_seed: int
) -> dict[str, int]:
    """Writes the coarsened train split of a prepared folder as a folder of its own.

    Args:
      source: the prepared folder.
      out: the new one.
      ranges: a key of `RANGES`.
      seed: of the rows and their years.
      val_fraction, split_seed: of the runs that will read it.

    Returns:
      `rows`, `coarsened`, and `masked`: those of them that lost their class.

    Raises:
      UserError: no such split, or a folder that exists.
    """
    index, report = index_lib.read(source, "train"), index_lib.read_report(source)
    rows = coarsened_rows(len(index), seed=seed, val_fraction=val_fraction, split_seed=split_seed)
    new = coarsened(index, rows, RANGES[ranges], seed=seed)
    masked = int((new.labels[AGE.name][rows] == MISSING).sum())
    found = {"rows": len(index), "coarsened": len(rows), "masked": masked}
    part = report["splits"]["train"] | {"fingerprint": new.fingerprint()}
    report |= {
        "protocol": report["protocol"] | {"coarsened": f"{len(rows)} rows to {ranges}, seed {seed}"},
        "splits": {"train": part},
    }
    with files.atomic_folder(out) as folder:
        for pattern in ("*-train.array_record*", "dataset_info.json", "features.json"):
            for path in source.glob(pattern):
                shutil.copy(path, folder / path.name)
        index_lib.write(new, folder, "train")
        (folder / index_lib.REPORT).write_text(json.dumps(report, indent=2) + "\n")
    return found
