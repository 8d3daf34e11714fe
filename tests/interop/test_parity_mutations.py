"""Proof that the parity check can fail: known mistakes, put in on purpose, are all caught."""

import functools
import pathlib

import jax
import numpy as np
import pytest

from softbio_jax.interop import goldens, ladder, official
from softbio_jax.interop.goldens import named_state
from softbio_jax.models import blocks, encoder, positions, vision
from softbio_jax.models.elementwise import LayerNorm

FOLDER = pathlib.Path(__file__).parent.parent / "goldens"
# The class token, rotary positions, a square projection, and an input that is not square.
CASE = next(case for case in goldens.CASES if case.variant == "tiny-faces")
VERDICT = "embedding_normalised"


def compared(state):
    rungs = ladder.vision_rungs(CASE.config, state, CASE.images())
    found = ladder.compare(goldens.sampled(rungs), goldens.load(FOLDER, CASE))
    return {rung.name: rung for rung in found}


@pytest.fixture
def state():
    return named_state(official.vision_shapes(CASE.config))


def test_without_a_mistake_every_rung_holds(state):
    assert all(rung.holds for rung in compared(state).values())


def swapped_axes(angles, grid, head_dim, **kw):
    table = angles(grid, head_dim, **kw)
    return np.concatenate(np.split(table, 2, axis=-1)[::-1], axis=-1)


def class_angle_at_the_end(angles, grid, head_dim, **kw):
    return np.roll(angles(grid, head_dim, **kw), -1, axis=0)


def count_from_zero(angles, grid, head_dim, *, class_token, **kw):
    patches = angles(grid, head_dim, class_token=False, **kw)
    return np.concatenate([np.zeros((1, head_dim), np.float32), patches])


def half_split(angles, grid, head_dim, **kw):
    table = angles(grid, head_dim, **kw)
    order = np.arange(head_dim).reshape(2, -1, 2).transpose(0, 2, 1).ravel()
    return table[:, order]


@pytest.mark.parametrize("mistake", [swapped_axes, class_angle_at_the_end, count_from_zero, half_split])
def test_a_wrong_rotary_table_fails(state, monkeypatch, mistake):
    monkeypatch.setattr(positions, "angles", functools.partial(mistake, positions.angles))
    rungs = compared(state)
    assert not rungs["rotary"].holds
    assert not rungs[VERDICT].holds, "the table's own rung must not be the only witness"


def test_the_tanh_gelu_fails(state, monkeypatch):
    monkeypatch.setitem(blocks.ACTIVATIONS, "gelu", functools.partial(jax.nn.gelu, approximate=True))
    assert not compared(state)[VERDICT].holds


@pytest.mark.parametrize(
    "modules", [(encoder,), (vision,), (blocks, encoder, vision)], ids=["encoder", "pool", "all"]
)
def test_the_flax_epsilon_fails(state, monkeypatch, modules):
    def flax_norm(*_, name):
        return LayerNorm(1e-6, name=name)

    for module in modules:
        monkeypatch.setattr(module, "LayerNorm", flax_norm)
    found = compared(state)[VERDICT]
    assert found.difference > 3 * found.limit


def test_the_epsilon_of_every_norm_is_torchs():
    # In the blocks alone it moves the embedding by 1.0e-6: too close to the bound to be told there.
    x = 1e-3 * np.random.default_rng(0).standard_normal((4, 32)).astype(np.float32)
    expected = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    norm = LayerNorm()
    found = norm.apply(norm.init(jax.random.key(0), x), x)
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("key", ["visual.proj", "visual.transformer.resblocks.1.attn.out_proj.weight"])
def test_a_transposed_square_matrix_fails(state, key):
    assert len(set(state[key].shape)) == 1, "only a square one could pass by shape"
    state[key] = state[key].T
    assert not compared(state)[VERDICT].holds


def test_a_swapped_pair_of_norms_fails(state):
    first, second = (f"visual.transformer.resblocks.2.ln_{i}.weight" for i in (1, 2))
    state[first], state[second] = state[second], state[first]
    assert not compared(state)[VERDICT].holds


def test_unscaled_queries_and_keys_would_hide_much(state, monkeypatch):
    # Why the weights' generator scales them: the same mistake is several times smaller without.
    def error(weights, mistaken):
        with monkeypatch.context() as patch:
            if mistaken:
                patch.setattr(positions, "angles", functools.partial(swapped_axes, positions.angles))
            return ladder.vision_rungs(CASE.config, weights, CASE.images())[VERDICT]

    plain = named_state(official.vision_shapes(CASE.config), qk_gain=1.0)
    effect = [np.abs(error(w, True) - error(w, False)).max() for w in (plain, state)]
    assert effect[1] > 3 * effect[0]
