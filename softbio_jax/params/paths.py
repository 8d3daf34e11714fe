"""Parameter trees by path: "/"-joined names and first-match rules that must cover every leaf."""

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from softbio_jax.errors import UserError

Tree = dict[str, Any]


def flatten(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Returns {"a/b": leaf} of a nested dict, in sorted order.

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
    """Returns the label of each path: that of the first rule whose anchored regex matches.

    Args:
      paths: "/"-joined leaf paths.
      rules: (regex, label) pairs, tried in order.

    Raises:
      UserError: a path that no rule matches, or a rule that no path needs.
    """
    labels: dict[str, str] = {}
    used: set[int] = set()
    for path in paths:
        hits = [i for i, (regex, _) in enumerate(rules) if re.fullmatch(regex, path)]
        if not hits:
            raise UserError("parameter without a group", where=path,
                            expected="a rule that matches it", found="none",
                            fix="add one to the method's groups; (\".*\", FROZEN) at their "
                                "end takes what is not trained")  # fmt: skip
        labels[path] = rules[hits[0]][1]
        used.add(hits[0])
    idle = [regex for i, (regex, _) in enumerate(rules) if i not in used]
    if idle:
        near = difflib.get_close_matches(idle[0], list(labels), n=2, cutoff=0)
        raise UserError("parameter group is empty", where=", ".join(idle),
                        expected="a parameter that it matches first", found="none",
                        fix="correct the regex or drop the rule; paths look like "
                            f"{' or '.join(near)}")  # fmt: skip
    return labels
