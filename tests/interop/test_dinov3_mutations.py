"""Mistakes in DINOv3's parts, put in on purpose, are caught by the stored outputs of the reference."""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from softbio_jax.adapters.dense import AdaptedDense
from softbio_jax.interop import goldens, ladder, official
from softbio_jax.interop.goldens import named_state
from softbio_jax.models import positions
from softbio_jax.models.families import dinov3

FOLDER = pathlib.Path(__file__).parent.parent / "goldens"
# Registers, the rotary table, SwiGLU, no bias of k, a grid that is not square.
CASE = next(case for case in goldens.CASES if case.variant == "tiny-dinov3-plus")


def holds(config=CASE.config, state=None):
    """Whether the rotary table and the feature hold."""
    state = named_state(official.vision_shapes(CASE.config)) if state is None else state
    rungs = ladder.vision_rungs(config, state, CASE.images())
    found = ladder.compare(
        goldens.sampled(rungs), goldens.load(FOLDER, CASE), noise=goldens.rounding(FOLDER, CASE)
    )
    held = {rung.name: rung.holds for rung in found}
    return held.get("rotary"), held["pooled"]


def test_without_a_mistake_all_holds():
    assert holds() == (True, True)


@pytest.mark.parametrize("field", [{"norm_eps": 1e-6}, {"key_bias": True}], ids=str)
def test_a_wrong_declaration_fails(field):
    assert not holds(dataclasses.replace(CASE.config, **field))[1]


def wrong_base(table, grid, head_dim, prefix):
    del table
    return positions.centred_angles(grid, head_dim, prefix=prefix)


def rotated_registers(table, grid, head_dim, prefix):
    return np.concatenate([table[prefix : 2 * prefix], table[prefix:]])


def corners(table, grid, head_dim, prefix):
    """Patches at 2 p / n - 1, not at their centres."""
    table = table.copy()
    patches = table[prefix:].reshape(*grid, 4, -1)
    for axis, part in ((0, 0), (1, 1)):
        patches[..., part::2, :] -= np.float32(2 * np.pi / grid[axis]) / dinov3.periods(head_dim)
    return table


def one_scale(table, grid, head_dim, prefix):
    """Both sides divided by the longer one."""
    longest = max(grid)
    table = table.copy()
    patches = table[prefix:].reshape(*grid, 4, -1)
    for axis, part in ((0, 0), (1, 1)):
        patches[..., part::2, :] *= np.float32(grid[axis] / longest)
    return table


def columns_first(table, grid, head_dim, prefix):
    return np.roll(table, head_dim // 4, axis=-1)


LONG = [pytest.param(mistake, marks=pytest.mark.long) for mistake in (one_scale, columns_first)]


@pytest.mark.parametrize("mistake", [wrong_base, rotated_registers, corners, *LONG])
def test_a_wrong_rotary_table_fails(monkeypatch, mistake):
    original = positions.centred_angles

    def mistaken(grid, head_dim, *, prefix):
        return mistake(original(grid, head_dim, prefix=prefix), grid, head_dim, prefix)

    if mistake is wrong_base:
        monkeypatch.setattr(dinov3, "BASE", 10_000.0)
    else:
        monkeypatch.setattr(positions, "centred_angles", mistaken)
    assert holds() == (False, False), "the table's own rung must not be the only witness"


def test_neighbours_that_turn_together_fail(monkeypatch):
    original = positions.rotation

    def neighbours(config, grid):
        return dataclasses.replace(original(config, grid), reach=1)

    monkeypatch.setattr(positions, "rotation", neighbours)
    assert not holds()[1]


def test_a_bias_of_the_keys_is_not_read_and_has_no_gradient():
    dense = AdaptedDense(6, projections=3, key_bias=False)
    x = jnp.ones((1, 1, 4))
    params = {"kernel": jnp.zeros((4, 6)), "bias": jnp.arange(1.0, 7.0)}
    out, pull = jax.vjp(lambda p: dense.apply({"params": p}, x), params)
    np.testing.assert_array_equal(out[0, 0], [1, 2, 0, 0, 5, 6])
    np.testing.assert_array_equal(pull(jnp.ones_like(out))[0]["bias"], [1, 1, 0, 0, 1, 1])


def test_the_table_by_hand():
    """Two rows and one column: y is at -1/2 and 1/2, x at 0; the first period is 1, the last below 100."""
    table = positions.centred_angles((2, 1), 8, prefix=1)
    y = np.pi * np.array([1, 1 / 10])
    np.testing.assert_allclose(table[1], [*-y, 0, 0, *-y, 0, 0], rtol=1e-6)
    np.testing.assert_allclose(table[2], [*y, 0, 0, *y, 0, 0], rtol=1e-6)
    np.testing.assert_array_equal(table[0], 0)
