"""Trunk and tail of any length hold the same blocks."""

import numpy as np
import pytest

from softbio_jax.errors import UserError
from softbio_jax.interop.stacking import stack, unstack

BLOCKS = {f"encoder/blocks/{i}/mlp/c_fc/kernel": np.full((2, 3), i) for i in range(12)}
OTHERS = {"proj": np.ones(2), "text/blocks/0/ln_1/scale": np.full(3, 7)}


@pytest.mark.parametrize("tail", [0, 1, 4, 12])
def test_stack_and_unstack_are_inverse(tail):
    stacked = stack(BLOCKS | OTHERS, tail=tail)
    back = unstack(stacked)
    assert set(back) == set(BLOCKS | OTHERS)
    assert all(np.array_equal(back[key], value) for key, value in (BLOCKS | OTHERS).items())


def test_the_tail_holds_the_last_blocks_in_order():
    stacked = stack(BLOCKS, tail=4)
    rows = {part: stacked[f"encoder/{part}/mlp/c_fc/kernel"][:, 0, 0] for part in ("trunk", "tail")}
    assert rows["trunk"].tolist() == list(range(8))
    assert rows["tail"].tolist() == [8, 9, 10, 11]


def test_an_empty_trunk_or_tail_has_no_leaf():
    assert list(stack(BLOCKS, tail=0)) == ["encoder/trunk/mlp/c_fc/kernel"]
    assert list(stack(BLOCKS, tail=12)) == ["encoder/tail/mlp/c_fc/kernel"]


def test_the_text_tower_has_no_tail():
    assert stack(OTHERS, tail=1)["text/trunk/ln_1/scale"].tolist() == [[7, 7, 7]]


@pytest.mark.parametrize(
    ("more", "function"),
    [
        ({"encoder/blocks/2/mlp/c_fc/kernel": np.ones((2, 3))}, unstack),
        ({"text/blocks/0/ln_1/scale": np.ones(3)}, unstack),
        ({"encoder/blocks/02/mlp/c_fc/kernel": np.ones((2, 3))}, stack),
        ({"encoder/trunk/mlp/c_fc/kernel": np.ones((12, 2, 3))}, stack),
    ],
)
def test_two_leaves_of_one_place_are_named(more, function):
    leaves = BLOCKS | OTHERS
    with pytest.raises(UserError, match=r"two leaves of one place: .*found .* and ") as told:
        function((stack(leaves) if function is unstack else leaves) | more)
    assert next(iter(more)) in str(told.value)


def test_two_trunks_of_one_leaf_and_a_tail_that_overlaps():
    with pytest.raises(UserError, match=r"found encoder/trunk/x and encoder/tail/x"):
        unstack(
            {
                "encoder/trunk/x": np.ones((3, 2)),
                "encoder/tail/x": np.ones((1, 2)),
                "encoder/trunk/y": np.ones(2),
            }
        )


def test_a_block_that_lacks_a_leaf():
    leaves = {path: leaf for path, leaf in BLOCKS.items() if "/5/" not in path}
    with pytest.raises(UserError, match=r"some blocks lack: .*expected blocks 0 to 11, found 0, 1"):
        stack(leaves)
