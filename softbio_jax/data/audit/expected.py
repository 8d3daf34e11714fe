"""The class counts of complete data sets, to detect incomplete copies and exchanged classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from softbio_jax.errors import UserError
from softbio_jax.tasks import TASKS

_FITS = 0.01  # of the rows may differ in the order that fits ...
_DIFFERS = 0.02  # ... and more than this share must differ in the given order

# (set, split) -> task -> rows of each class; the key "rows" holds the total. Sets are named by
# `set_of`; rafdb is RAF-DB without the images of unsure gender.
CLASS_COUNTS: dict[tuple[str, str], dict[str, tuple[int, ...]]] = {
    ("fairface", "train"): {
        "rows": (86_744,),
        "age": (1792, 10408, 9103, 25598, 19250, 10744, 6228, 2779, 842),
        "gender": (45_986, 40_758),
    },
    ("fairface", "val"): {
        "rows": (10_954,),
        "age": (199, 1356, 1181, 3300, 2330, 1353, 796, 321, 118),
        "gender": (5_792, 5_162),
    },
    ("lagenda", "train"): {
        "rows": (84_190,),
        "age": (1886, 9263, 10861, 11631, 11367, 11722, 11754, 10379, 5327),
        "gender": (41_456, 42_734),
    },
    ("celeba_hq", "train"): {"rows": (28_000,), "gender": (10_057, 17_943)},
    ("celeba_hq", "val"): {"rows": (2_000,), "gender": (1_000, 1_000)},
    ("rafdb", "train"): {
        "rows": (11_519,),
        "gender": (4_957, 6_562),
        "emotion": (1151, 277, 702, 4640, 1627, 693, 2429),
    },
    ("rafdb", "test"): {
        "rows": (2_869,),
        "gender": (1_249, 1_620),
        "emotion": (297, 74, 158, 1141, 386, 159, 654),
    },
    ("utkface", "test"): {"rows": (23_705,)},
    # With --raf_filter=official; genders are not published.
    ("rafdb official", "train"): {"rows": (12_271,), "emotion": (1290, 281, 717, 4772, 1982, 705, 2524)},
    ("rafdb official", "test"): {"rows": (3_068,), "emotion": (329, 74, 160, 1185, 478, 162, 680)},
    # All faces of the list, and AffectNet's manually annotated training images of the seven emotions: as
    # commonly quoted, not compared with the papers. Wrong ones would recognise nothing.
    ("expw", "train"): {"rows": (91_793,), "emotion": (7060, 1088, 3995, 30_537, 10_559, 3671, 34_883)},
    ("affectnet", "train"): {
        "rows": (283_901,),
        "emotion": (14_090, 6378, 3803, 134_415, 25_459, 24_882, 74_874),
    },
    ("fer2013", "train"): {"rows": (28_709,), "emotion": (3171, 4097, 436, 7215, 4830, 3995, 4965)},
    ("fer2013", "val"): {"rows": (3_589,)},
    ("fer2013", "test"): {"rows": (3_589,)},
}


def set_of(builder: str, protocol: Mapping[str, str]) -> str:
    """Returns the data set that a folder with "dataset" and "protocol" in its report is a copy of.

    This is the builder's name, or "rafdb official" for RAF-DB with the images of unsure gender.
    """
    return f"{builder} official" if protocol.get("raf_filter") == "official" else builder


def exchanged(copy_of: str, split: str, *, rows: int, counts: Mapping[str, Sequence[int]]) -> dict[str, str]:
    """Finds tasks whose counts are the published ones with the classes in another order.

    Classes with equal counts are not distinguished, and a part of a data set is not recognised.

    Args:
      copy_of: the set, as `set_of` names it; used only if no known set has as many rows.
      split: its split.
      rows: number of its rows.
      counts: task -> (C,) rows of each class.

    Returns:
      task -> the true class of each exchanged class: "male is female, female is male".
    """
    known = _published(copy_of, split, rows)
    found = {}
    for task in known.keys() & counts.keys():
        here, there = np.array(counts[task]), np.array(known[task])
        # The assignment of least sum |here - there| is that of the ranks.
        true = np.empty(len(here), np.int64)
        true[np.argsort(here)] = np.argsort(there)
        best, given = np.abs(here - there[true]).sum(), np.abs(here - there).sum()
        if best <= _FITS * here.sum() and given > max(5 * best, _DIFFERS * here.sum()):
            names = TASKS[task].classes
            found[task] = ", ".join(f"{names[a]} is {names[b]}" for a, b in enumerate(true) if a != b)
    return found


def check(copy_of: str, split: str, *, rows: int, counts: Mapping[str, Sequence[int]]) -> None:
    """Raises UserError if a split's classes are in another order; arguments as of `exchanged`."""
    for task, swapped in exchanged(copy_of, split, rows=rows, counts=counts).items():
        published = _published(copy_of, split, rows)[task]
        expected = f"{_listed(task, published)} as in every complete copy"
        found, fix = _listed(task, counts[task]), f"correct the labels of the source: {swapped}"
        what, where = f"{task} classes in another order", f"split {split!r}"
        raise UserError(what, where=where, expected=expected, found=found, fix=fix)


def _published(copy_of: str, split: str, rows: int) -> dict[str, tuple[int, ...]]:
    alike = [counts for counts in CLASS_COUNTS.values() if counts["rows"] == (rows,)]
    known = alike[0] if alike else CLASS_COUNTS.get((copy_of, split), {})
    return {task: counts for task, counts in known.items() if task in TASKS}


def _listed(task: str, counts: Sequence[int]) -> str:
    return ", ".join(f"{name} {n:,}" for name, n in zip(TASKS[task].classes, counts, strict=True))
