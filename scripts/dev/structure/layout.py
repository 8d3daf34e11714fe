"""Where the boxes and arrows of a layered graph go."""

from __future__ import annotations

import collections
import itertools
import statistics
from collections.abc import Mapping, Sequence

BOX = (172, 62)
_GAP = 26


def levels(names: Sequence[str], arrows: Sequence[tuple[str, str]]) -> dict[str, int]:
    """Returns the row of each package, 0 the lowest: right below the lowest that imports it."""
    below = collections.defaultdict[str, list[str]](list)
    above = collections.defaultdict[str, list[str]](list)
    for name, other in arrows:
        below[name].append(other)
        above[other].append(name)

    def height(name: str) -> int:
        return 1 + max(map(height, below[name]), default=-1)

    def level(name: str) -> int:
        return min(map(level, above[name])) - 1 if above[name] else height(name)

    return {name: level(name) for name in names}


def chains(level: Mapping[str, int], arrows: Sequence[tuple[str, str]]) -> list[list[str]]:
    """Returns what each arrow passes from top to bottom: a box, a bend a row between, a box."""
    return [
        [name, *(f"{name}-{other}@{row}" for row in _between(level[name], level[other])), other]
        for name, other in arrows
    ]


def places(level: Mapping[str, int], arrows: Sequence[tuple[str, str]]) -> dict[str, float]:
    """Returns the horizontal centre of each box and bend: near what leads to it, apart in a row."""
    passed = chains(level, arrows)
    rows = {name: row_of(name, level) for chain in passed for name in chain} | dict(level)
    above = collections.defaultdict[str, list[str]](list)
    for chain in passed:
        for upper, lower in itertools.pairwise(chain):
            above[lower].append(upper)
    centre: dict[str, float] = {}
    for row in range(max(rows.values()), -1, -1):
        wish = {
            name: statistics.fmean([centre[upper] for upper in above[name]] or [0.0])
            for name in rows
            if rows[name] == row
        }
        order = sorted(wish, key=lambda name: (wish[name], name))
        spread = [wish[order[0]]]
        for left, right in itertools.pairwise(order):
            step = (_width(left) + _width(right)) / 2 + _GAP
            spread.append(max(wish[right], spread[-1] + step))
        # A row of several goes half way back to the middle, so that the image does not drift to one side.
        middle = statistics.fmean(wish.values()) / (2 if len(wish) > 1 else 1)
        shift = middle - statistics.fmean(spread)
        centre |= {name: x + shift for name, x in zip(order, spread, strict=True)}
    return centre


def _between(upper: int, lower: int) -> range:
    return range(upper - 1, lower, -1)


def row_of(name: str, level: Mapping[str, int]) -> int:
    return int(name.rpartition("@")[2]) if "@" in name else level[name]


def _width(name: str) -> int:
    return 0 if "@" in name else BOX[0]
