import jax
import numpy as np
import pytest

from softbio_jax.errors import UserError
from softbio_jax.params import by_group, combine, count, flatten, label, partition, unflatten

TREE = {
    "encoder": {"trunk": {"kernel": np.ones((2, 3)), "bias": np.zeros(3)}},
    "heads": {"age": {"kernel": np.ones((3, 9))}},
}


def test_flatten_sorts_and_unflatten_is_its_inverse():
    flat = flatten(TREE)
    assert list(flat) == ["encoder/trunk/bias", "encoder/trunk/kernel", "heads/age/kernel"]
    jax.tree.map(np.testing.assert_array_equal, unflatten(flat), TREE)


def test_partition_splits_in_two_and_combine_puts_together():
    trainable, frozen = partition(TREE, lambda path: path.startswith("heads/"))
    assert list(flatten(trainable)) == ["heads/age/kernel"]
    assert list(flatten(frozen)) == ["encoder/trunk/bias", "encoder/trunk/kernel"]
    whole = combine(trainable, frozen)
    assert jax.tree.structure(whole) == jax.tree.structure(TREE)
    assert flatten(whole)["heads/age/kernel"] is TREE["heads"]["age"]["kernel"]


def test_partition_with_an_empty_half():
    trainable, frozen = partition(TREE, lambda path: True)
    assert frozen == {} and jax.tree.structure(combine(trainable, {})) == jax.tree.structure(TREE)


def test_combine_names_a_leaf_of_both():
    with pytest.raises(UserError, match="parameter in both trees: encoder/trunk/bias"):
        combine(TREE, TREE)


def test_the_first_rule_wins():
    rules = [("heads/.*", "heads"), (".*/kernel", "kernels"), (".*", "rest")]
    assert label(list(flatten(TREE)), rules) == {
        "encoder/trunk/bias": "rest",
        "encoder/trunk/kernel": "kernels",
        "heads/age/kernel": "heads",
    }


def test_rules_are_anchored():
    with pytest.raises(UserError, match="parameter without a group: encoder/trunk/bias"):
        label(list(flatten(TREE)), [("kernel", "a"), ("heads", "b")])


def test_a_rule_that_nothing_needs_is_named():
    with pytest.raises(UserError, match=r"parameter group is empty: pool/\.\*"):
        label(list(flatten(TREE)), [("pool/.*", "pooling"), (".*", "rest")])


def test_a_mistyped_rule_is_told_what_paths_look_like():
    with pytest.raises(UserError, match="paths look like heads/age/kernel or "):
        label(list(flatten(TREE)), [("head/age/kernel", "heads"), (".*", "rest")])


def test_counts_of_arrays_and_of_shapes():
    assert count(TREE) == 6 + 3 + 27
    shapes = jax.eval_shape(lambda: TREE)
    groups = label(list(flatten(TREE)), [("heads/.*", "heads"), (".*", "frozen")])
    assert by_group(shapes, groups) == {"heads": 27, "frozen": 9}
    assert list(by_group(shapes, groups)) == ["heads", "frozen"]
