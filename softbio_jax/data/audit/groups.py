"""Images that are copies of each other, as groups: what to keep of them, and where their labels differ."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

# What is measured on stays as it is: of copies the one in the first of these splits is kept.
_KEPT = ("test", "val")
DROP_COLUMNS = ("split", "id", "copy_of_split", "copy_of_id", "across", "labels_differ")


class Groups:
    """Images that pairs connect, as a forest (union-find): each image leads to the first of its group."""

    def __init__(self, count: int):
        self._leader = np.arange(count)
        self._size = np.ones(count, np.int64)

    def leader(self, number: int) -> int:
        """Returns the first image of the group that an image is in."""
        while self._leader[number] != number:
            self._leader[number] = self._leader[self._leader[number]]
            number = int(self._leader[number])
        return number

    def size(self, number: int) -> int:
        """Returns how many images are in the group of an image."""
        return int(self._size[self.leader(number)])

    def join(self, first: int, second: int) -> None:
        """Makes one group of the groups of two images."""
        low, high = sorted((self.leader(first), self.leader(second)))
        if low != high:
            self._leader[high] = low
            self._size[low] += self._size[high]

    def members(self) -> list[list[int]]:
        """Returns the groups of two or more images, in the order of their first ones."""
        found: dict[int, list[int]] = {}
        for number in range(len(self._leader)):
            if self.size(number) > 1:
                found.setdefault(self.leader(number), []).append(number)
        return list(found.values())


def contradictions(group: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Returns the tasks whose labels differ within a group of copies: task -> the classes, sorted.

    A partial label allows several classes ("possible"); it differs where none of them is left by the others.
    """
    sets: dict[str, list[set[str]]] = {}
    for side in group:
        for task, label in side["labels"].items():
            sets.setdefault(task, []).append({label})
        for task, labels in side.get("possible", {}).items():
            sets.setdefault(task, []).append(set(labels))
    return {task: sorted(set.union(*found)) for task, found in sets.items() if not set.intersection(*found)}


def drop_list(groups: Sequence[Mapping[str, Any]]) -> str:
    """Returns the images to remove so that one of every group remains, as a CSV table.

    The one that is kept is the first in a split named test, else in val, else the first of all. Column
    `across` says whether it is in another split, `labels_differ` names the tasks with another label.

    Args:
      groups: "groups" of the findings (`findings.audit`).
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(DROP_COLUMNS)
    for group in groups:
        kept = min(group["images"], key=_place)
        for side in group["images"]:
            if side is not kept:
                across = "yes" if side["split"] != kept["split"] else "no"
                differ = " ".join(contradictions([side, kept]))
                writer.writerow((side["split"], side["id"], kept["split"], kept["id"], across, differ))
    return text.getvalue()


def _place(side: Mapping[str, Any]) -> int:
    split = side["split"].rsplit("/", 1)[-1]
    return _KEPT.index(split) if split in _KEPT else len(_KEPT)
