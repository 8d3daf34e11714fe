"""Trunk and tail of any length hold the same blocks."""

import numpy as np
import pytest

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
