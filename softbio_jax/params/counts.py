"""Parameter counts a group, from arrays or abstract shapes alone."""

import math
from collections.abc import Mapping
from typing import Any

from softbio_jax.params.paths import flatten


def count(tree: Mapping[str, Any]) -> int:
    """Returns the number of scalars in a tree of arrays or shapes."""
    return sum(math.prod(leaf.shape) for leaf in flatten(tree).values())


def by_group(tree: Mapping[str, Any], groups: Mapping[str, str]) -> dict[str, int]:
    """Returns the number of scalars in each group, largest first.

    Args:
      tree: nested dict of arrays or shapes.
      groups: the group of each "/"-joined path.
    """
    totals: dict[str, int] = {}
    for path, leaf in flatten(tree).items():
        totals[groups[path]] = totals.get(groups[path], 0) + math.prod(leaf.shape)
    return dict(sorted(totals.items(), key=lambda item: -item[1]))
