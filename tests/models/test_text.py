import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from softbio_jax.interop import goldens, ladder, official
from softbio_jax.interop.goldens import named_state
from softbio_jax.models import blocks
from softbio_jax.models.config import TEXT, ComputeConfig
from softbio_jax.models.elementwise import LayerNorm
from softbio_jax.models.text import TextEncoder

START, END = 49406, 49407
SMALL = TEXT["tiny-test"]
IDS = np.array([[START, 320, 1125, 539, 900, END, 0, 0, 0, 0]], np.int32)


@pytest.fixture(scope="module")
def params():
    made = jax.jit(TextEncoder(SMALL).init)(jax.random.key(0), jnp.asarray(IDS))["params"]
    # Tokens of one, positions and attention large enough to be seen.
    made["token_embedding"] = 50 * made["token_embedding"]
    made["positional_embedding"] = 50 * made["positional_embedding"]
    return made


def embed(params, ids, **compute):
    tower = TextEncoder(SMALL, ComputeConfig(**compute))
    return np.asarray(jax.jit(tower.apply)({"params": params}, jnp.asarray(ids)), np.float32)


def changed(ids, place, token):
    ids = ids.copy()
    ids[0, place] = token
    return ids


class TestWhatIsRead:
    def test_nothing_after_the_first_end_mark(self, params):
        want = embed(params, IDS)
        for place, token in ((6, 1000), (9, 49405), (7, END)):
            np.testing.assert_array_equal(embed(params, changed(IDS, place, token)), want)

    @pytest.mark.parametrize("place", [0, 1, 4])
    def test_everything_before_it(self, params, place):
        other = embed(params, changed(IDS, place, 7))
        assert np.abs(other - embed(params, IDS)).max() > 1e-2

    def test_the_order(self, params):
        swapped = IDS.copy()
        swapped[0, [1, 2]] = swapped[0, [2, 1]]
        assert np.abs(embed(params, swapped) - embed(params, IDS)).max() > 1e-2

    def test_padding_is_free(self, params):
        np.testing.assert_allclose(embed(params, IDS[:, :6]), embed(params, IDS), atol=1e-6)

    def test_texts_of_a_batch_are_read_where_each_ends(self, params):
        short = np.array([[START, 320, END, 0, 0, 0, 0, 0, 0, 0]], np.int32)
        both = embed(params, np.concatenate([IDS, short]))
        np.testing.assert_allclose(both[:1], embed(params, IDS), atol=1e-6)
        np.testing.assert_allclose(both[1:], embed(params, short), atol=1e-6)


def test_the_end_of_the_tower_by_hand(params):
    # Blocks that add nothing, and a variance near eps, so that the final norm's eps counts.
    idle = params | {"trunk": jax.tree.map(jnp.zeros_like, params["trunk"])}
    table, places = (1e-3 * idle[name] for name in ("token_embedding", "positional_embedding"))
    idle |= {"token_embedding": table, "positional_embedding": places}
    end = IDS[0].argmax()
    x = np.asarray(table[END] + places[end], np.float64)
    assert x.var() < 1e-5
    normed = (x - x.mean()) / np.sqrt(x.var() + 1e-5)
    want = normed @ np.asarray(idle["text_projection"], np.float64)
    np.testing.assert_allclose(embed(idle, IDS)[0], want, rtol=0, atol=1e-6)


def test_bfloat16_stays_near(params):
    want, found = embed(params, IDS), embed(params, IDS, dtype="bfloat16")
    assert 0 < np.abs(found - want).max() < 0.05 * np.abs(want).max()


class TestMistakesAreSeen:
    """The stored outputs of the official text tower tell each of these mistakes."""

    CASE = next(case for case in goldens.CASES if case.text)
    FOLDER = pathlib.Path(__file__).parent.parent / "goldens"

    @pytest.fixture
    def state(self):
        return named_state(official.text_shapes(self.CASE.text_config))

    def holds(self, state):
        ids = goldens.text_ids(self.CASE.text_config.context)
        stored = goldens.load(self.FOLDER, self.CASE)
        embedding = stored["embedding"].reshape(1, -1)
        rungs = ladder.text_rungs(self.CASE.text_config, state, ids, embedding)
        compared = ladder.compare(goldens.sampled(rungs), stored)
        return {rung.name: rung.holds for rung in compared}["text_normalised"]

    def test_without_one_it_holds(self, state):
        assert self.holds(state)

    def test_no_causal_mask(self, state, monkeypatch):
        def attend(*arguments, causal, **keywords):
            assert causal
            return original(*arguments, causal=False, **keywords)

        original = blocks.self_attention
        monkeypatch.setattr(blocks, "self_attention", attend)
        assert not self.holds(state)

    def test_the_tanh_gelu(self, state, monkeypatch):
        monkeypatch.setitem(blocks.ACTIVATIONS, "gelu", functools.partial(jax.nn.gelu, approximate=True))
        assert not self.holds(state)

    def test_the_flax_epsilon(self, state, monkeypatch):
        monkeypatch.setattr(blocks, "LayerNorm", lambda _=0, *, name: LayerNorm(1e-6, name=name))
        assert not self.holds(state)

    @pytest.mark.parametrize("key", ["text_projection", "transformer.resblocks.3.attn.out_proj.weight"])
    def test_a_transposed_square_matrix(self, state, key):
        assert len(set(state[key].shape)) == 1
        assert self.holds(state | {key: state[key].T.copy()}) is False

    def test_shifted_positions(self, state):
        rolled = np.roll(state["positional_embedding"], 1, axis=0)
        assert not self.holds(state | {"positional_embedding": rolled})
