import jax
import numpy as np
import pytest

from softbio_jax.errors import UserError
from softbio_jax.models.config import VISION
from softbio_jax.models.vision import VisionEncoder
from tests.compiling import OLDER_XLA

CONFIG = VISION["tiny-test"]
TOWER = VisionEncoder(CONFIG)
IMAGES = jax.random.uniform(jax.random.key(1), (2, 24, 40, 3), minval=-1)


@pytest.fixture(scope="module")
def variables():
    return jax.jit(TOWER.init)(jax.random.key(0), IMAGES)


@pytest.fixture(scope="module")
def states(variables):
    return jax.jit(lambda v: TOWER.apply(v, IMAGES, method="states"))(variables)


def intermediates(variables, *arguments, tower=TOWER, **keywords):
    run = jax.jit(lambda v: tower.apply(v, IMAGES, *arguments, method="intermediates", **keywords))
    return run(variables)


def test_the_default_is_the_last_block_without_the_final_norm(variables, states):
    found = intermediates(variables)
    assert found.shape == (1, 2, 1 + 3 * 5, CONFIG.width)
    np.testing.assert_allclose(found[0], states["blocks"][2], atol=1e-6)
    assert np.abs(found[0] - states["tokens"]).max() > 0.1


@pytest.mark.parametrize("layers", [(0,), (1,), (-3,), (2, 0), (-2, 1, -1)])
def test_each_index_is_the_output_of_that_block(variables, states, layers):
    found = intermediates(variables, layers)
    for layer, tokens in zip(layers, found, strict=True):
        np.testing.assert_allclose(tokens, states["blocks"][layer], atol=1e-6)
    blocks = states["blocks"]
    assert min(np.abs(blocks[i] - blocks[i + 1]).max() for i in range(2)) > 0.1


def test_with_the_final_norm(variables, states):
    last, first = intermediates(variables, (-1, 0), norm=True)
    np.testing.assert_allclose(last, states["tokens"], atol=1e-6)
    x = np.asarray(states["blocks"][0], np.float64)
    normed = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    norm = variables["params"]["encoder"]["ln_post"]
    np.testing.assert_allclose(first, normed * norm["scale"] + norm["bias"], atol=1e-5)


def test_a_kept_apart_tail_changes_nothing(variables):
    split = jax.tree.map(lambda x: x, variables)
    trunk = split["params"]["encoder"]["trunk"]
    split["params"]["encoder"]["trunk"] = jax.tree.map(lambda x: x[:1], trunk)
    split["params"]["encoder"]["tail"] = jax.tree.map(lambda x: x[1:], trunk)
    layers = (0, 1, 2)
    found = intermediates(split, layers, tower=VisionEncoder(CONFIG, tail=2))
    # jax 0.7.2 compiles a scanned block otherwise than the same block of a scan of two: 1e-6 at 2.
    np.testing.assert_allclose(found, intermediates(variables, layers), atol=2e-6 if OLDER_XLA else 1e-6)


@pytest.mark.parametrize("layer", [3, -4])
def test_no_such_block(variables, layer):
    with pytest.raises(UserError, match=f"no such block.*-3 to 2, found {layer}"):
        intermediates(variables, (0, layer))
