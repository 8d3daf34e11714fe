"""The masks of dropout: even, independent of each other, and a function of the key and an example's row."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.random import threefry_2x32

from softbio_jax.adapters import math

KEY, ROWS = jax.random.key(3), jnp.array([0, 7, 5000])
TASKS, TOKENS, WIDTH, BLOCKS = 2, 65, 198, 50  # a block of bits decides four channels


def kept(rows=ROWS, *, key=KEY, rate=0.1, tasks=TASKS):
    x = jnp.ones((tasks, len(rows), TOKENS, WIDTH))
    return np.asarray(math.dropout(x, key, rows, rate=rate))


@pytest.mark.parametrize("rate", [0.05, 0.1, 0.5])
def test_a_fraction_of_the_rate_is_zero_and_the_rest_keeps_the_mean(rate):
    dropped = kept(rate=rate) == 0
    for part in [*dropped.reshape(-1, TOKENS * WIDTH), *np.split(dropped, [50, 100, 150], axis=-1)]:
        assert abs(part.mean() - rate) < 4.5 * np.sqrt(rate * (1 - rate) / part.size)
    values = np.unique(kept(rate=rate))
    assert values[0] == 0 and values[1:] == pytest.approx([1 / (1 - rate)], rel=1e-4)


def test_no_two_masks_go_together():
    dropped = kept(rate=0.5) == 0
    masks = [*dropped.reshape(-1, TOKENS * WIDTH), (kept(rate=0.5, key=jax.random.key(4)) == 0)[0, 0].ravel()]
    masks.append(np.roll(masks[0], 1))  # neighbours
    for one, other in itertools.combinations(masks, 2):
        assert abs(np.corrcoef(one, other)[0, 1]) < 4.5 / np.sqrt(TOKENS * WIDTH)
    parts = [dropped[..., first : first + 48] for first in range(0, WIDTH - 40, BLOCKS)]  # of the same blocks
    for one, other in itertools.combinations(parts, 2):
        assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 4.5 / np.sqrt(one.size)


def test_an_example_has_its_mask_in_any_batch():
    np.testing.assert_array_equal(kept(ROWS[::-1]), kept()[:, ::-1])
    np.testing.assert_array_equal(kept(ROWS[1:2]), kept()[:, 1:2])


def test_the_bits_are_those_of_threefry():
    found = np.stack(math._uniform16(KEY, ROWS, (TASKS, 3, TOKENS, WIDTH)))
    task, row, token, block = 1, 2, 5, 11
    place = (task * TOKENS + token) * BLOCKS + block
    words = threefry_2x32(jax.random.key_data(KEY), jnp.array([ROWS[row], place], jnp.uint32))
    expected = [int(words[0]) & 0xFFFF, int(words[0]) >> 16, int(words[1]) & 0xFFFF, int(words[1]) >> 16]
    assert found[:, task, row, token, block].tolist() == expected
