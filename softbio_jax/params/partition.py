"""One parameter tree, split in two by predicate and put together again."""

from collections.abc import Callable
from typing import Any

from softbio_jax.errors import UserError
from softbio_jax.params.paths import Tree, flatten, unflatten


def partition(params: Tree, is_trainable: Callable[[str], bool]) -> tuple[Tree, Tree]:
    """Splits params into (trainable, frozen) by path; `combine` is the inverse.

    >>> partition({"head": {"kernel": 1}, "tower": {"kernel": 2}}, lambda p: p.startswith("head"))
    ({'head': {'kernel': 1}}, {'tower': {'kernel': 2}})

    Args:
      params: nested dict of leaves.
      is_trainable: tells from the "/"-joined path.
    """
    chosen: tuple[dict[str, Any], dict[str, Any]] = ({}, {})
    for path, leaf in flatten(params).items():
        chosen[0 if is_trainable(path) else 1][path] = leaf
    return unflatten(chosen[0]), unflatten(chosen[1])


def combine(trainable: Tree, frozen: Tree) -> Tree:
    """Returns the tree whose leaves are those of both, which share none.

    Raises:
      UserError: a leaf that both have.
    """
    left, right = flatten(trainable), flatten(frozen)
    if both := sorted(left.keys() & right.keys()):
        raise UserError("parameter in both trees", where=both[0], expected="one of them",
                        found="both", fix="partition the tree anew")  # fmt: skip
    return unflatten(left | right)
