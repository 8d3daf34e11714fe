"""Parameter trees: paths, labels by rules, partition and counts; of arrays or of shapes.

Functions take and return nested dicts, the form that `apply` takes. Code that edits single leaves
(checkpoint formats, adapter files, merging) flattens once at its entry and unflattens at its exit.
"""

import difflib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from softbio_jax.errors import UserError

Tree = dict[str, Any]


def flatten(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Returns {"a/b": leaf} of a nested dict, sorted by path.

    >>> flatten({"b": {"kernel": 1}, "a": 2})
    {'a': 2, 'b/kernel': 1}
    """
    flat: dict[str, Any] = {}
    for key in sorted(tree):
        value = tree[key]
        if isinstance(value, Mapping):
            flat |= {f"{key}/{inner}": leaf for inner, leaf in flatten(value).items()}
        else:
            flat[key] = value
    return flat


def unflatten(flat: Mapping[str, Any]) -> Tree:
    """Returns the nested dict of {"a/b": leaf}, the inverse of `flatten`."""
    tree: Tree = {}
    for path, leaf in flat.items():
        *parents, name = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = leaf
    return tree


def label(paths: Sequence[str], rules: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Returns the label of each path: that of the first (regex, label) rule that matches it entirely.

    Raises:
      UserError: a path that no rule matches, or a rule that is never the first match.
    """
    labels: dict[str, str] = {}
    used: set[int] = set()
    for path in paths:
        hits = [i for i, (regex, _) in enumerate(rules) if re.fullmatch(regex, path)]
        if not hits:
            raise UserError(
                "parameter without a group",
                where=path,
                expected="a rule that matches it",
                found="none",
                fix='add one to the method\'s groups; (".*", FROZEN) at the end matches what is not trained',
            )
        labels[path] = rules[hits[0]][1]
        used.add(hits[0])
    idle = [regex for i, (regex, _) in enumerate(rules) if i not in used]
    if idle:
        near = difflib.get_close_matches(idle[0], list(labels), n=2, cutoff=0)
        raise UserError(
            "parameter group is empty",
            where=", ".join(idle),
            expected="a parameter that it matches first",
            found="none",
            fix=f"correct the regex or drop the rule; paths look like {' or '.join(near)}",
        )
    return labels


def partition(params: Tree, is_trainable: Callable[[str], bool]) -> tuple[Tree, Tree]:
    """Splits params into (trainable, frozen) by path; `combine` is the inverse.

    >>> partition({"head": {"kernel": 1}, "encoder": {"kernel": 2}}, lambda p: p.startswith("head"))
    ({'head': {'kernel': 1}}, {'encoder': {'kernel': 2}})
    """
    chosen: tuple[dict[str, Any], dict[str, Any]] = ({}, {})
    for path, leaf in flatten(params).items():
        chosen[0 if is_trainable(path) else 1][path] = leaf
    return unflatten(chosen[0]), unflatten(chosen[1])


def combine(trainable: Tree, frozen: Tree) -> Tree:
    """Returns the tree with the leaves of both.

    Raises:
      UserError: a leaf in both.
    """
    left, right = flatten(trainable), flatten(frozen)
    if both := sorted(left.keys() & right.keys()):
        raise UserError(
            "parameter in both trees",
            where=both[0],
            expected="one of them",
            found="both",
            fix="partition the tree again",
        )
    return unflatten(left | right)


def count(tree: Mapping[str, Any]) -> int:
    """Returns the number of scalars in a tree of arrays or shapes."""
    return sum(math.prod(leaf.shape) for leaf in flatten(tree).values())


def by_group(tree: Mapping[str, Any], groups: Mapping[str, str]) -> dict[str, int]:
    """Returns the number of scalars per group, largest first; groups maps paths to groups."""
    totals: dict[str, int] = {}
    for path, leaf in flatten(tree).items():
        totals[groups[path]] = totals.get(groups[path], 0) + math.prod(leaf.shape)
    return dict(sorted(totals.items(), key=lambda item: -item[1]))
