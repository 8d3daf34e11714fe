import dataclasses
import importlib.util
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from softbio_jax.errors import UserError
from softbio_jax.interop import stacking
from softbio_jax.interop.official import OFFICIAL
from softbio_jax.models import encoder, positions
from softbio_jax.models.config import VISION
from softbio_jax.models.vision import VisionEncoder
from softbio_jax.params import unflatten

LIMIT = 1e-6  # of normalised embeddings


def reference():
    path = pathlib.Path(__file__).parent.parent / "parity" / "resolution_reference.py"
    spec = importlib.util.spec_from_file_location("resolution_reference", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


REFERENCE = reference()
GOLDEN = np.load(REFERENCE.GOLDEN)
CASES = [(token, size) for token in (True, False) for size in REFERENCE.SIZES]


def difference(tower, size):
    """The largest difference of normalised embeddings between this package and timm."""
    params = unflatten(stacking.stack(OFFICIAL.forward(REFERENCE.weights(tower))))
    # A new function each time, so that nothing traced before a mistake is used after it.
    run = jax.jit(lambda p, x: VisionEncoder(tower).apply({"params": p}, x))
    with jax.default_matmul_precision("highest"):
        found = run(params, REFERENCE.images(size))
    name = f"{'class' if tower.class_token else 'plain'}-{size[0]}x{size[1]}"
    ours, timms = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (found, GOLDEN[name]))
    return np.abs(ours - timms).max()


@pytest.mark.parametrize(("class_token", "size"), CASES)
def test_as_timm_has_them(class_token, size):
    assert difference(REFERENCE.config(class_token), size) <= LIMIT


@pytest.mark.parametrize("class_token", [True, False])
def test_the_official_way_is_another(class_token):
    tower = dataclasses.replace(REFERENCE.config(class_token), resample="official")
    assert difference(tower, REFERENCE.SIZES[0]) > 100 * LIMIT


class TestMistakesAreSeen:
    TOWER, SIZE = REFERENCE.config(True), (18, 84)

    def fails(self):
        return difference(self.TOWER, self.SIZE) > 10 * LIMIT

    def test_positions_not_rescaled(self, monkeypatch):
        original = positions.angles

        def angles(*arguments, rescale_to, **keywords):
            assert rescale_to == 8
            return original(*arguments, **keywords)

        monkeypatch.setattr(encoder.positions, "angles", angles)
        assert self.fails()

    def test_axes_rescaled_by_each_other(self, monkeypatch):
        original = positions.angles

        def angles(grid, *arguments, **keywords):
            turned = original(grid[::-1], *arguments, **keywords)
            patches = turned[1:].reshape(*grid[::-1], -1).swapaxes(0, 1)
            return np.concatenate([turned[:1], patches.reshape(len(turned) - 1, -1)])

        monkeypatch.setattr(encoder.positions, "angles", angles)
        assert self.fails()

    @pytest.mark.parametrize("kernel", [("linear", True), ("cubic", False), ("lanczos3", True)])
    def test_another_kernel(self, monkeypatch, kernel):
        monkeypatch.setitem(positions._RESIZE, "timm", kernel)
        assert self.fails()


class TestPositionalEmbedding:
    TABLE = jax.random.normal(jax.random.key(0), (1 + 16, 5))

    @pytest.mark.parametrize("method", ["official", "timm"])
    def test_the_stored_grid_is_not_touched(self, method):
        found = positions.resample(self.TABLE, stored=4, grid=(4, 4), class_token=True, method=method)
        np.testing.assert_array_equal(found, self.TABLE)

    @pytest.mark.parametrize("method", ["official", "timm"])
    def test_the_class_tokens_row_stays_first(self, method):
        found = positions.resample(self.TABLE, stored=4, grid=(2, 7), class_token=True, method=method)
        assert found.shape == (1 + 14, 5)
        np.testing.assert_array_equal(found[0], self.TABLE[0])

    def test_the_official_way_by_hand(self):
        # Halving without antialias reads the two nearest places of four, halfway between.
        line = jnp.arange(4.0)[:, None] ** 2 * jnp.ones((4, 4))
        table = line.reshape(16, 1)
        found = positions.resample(table, stored=4, grid=(2, 4), class_token=False)
        np.testing.assert_allclose(found.reshape(2, 4), [[0.5] * 4, [6.5] * 4], atol=1e-6)


class TestRotaryPositions:
    def test_rescaled_positions(self):
        turn = positions.angles((2, 6), 8, class_token=True, rescale_to=3)
        assert turn.shape == (13, 8)
        np.testing.assert_array_equal(turn[0], 0)
        # The first frequency is 1: its angle is the position, x then y, counted from 1.
        patches = turn[1:].reshape(2, 6, 8)
        np.testing.assert_allclose(patches[0, :, 0], np.arange(1, 7) / 6 * 3, rtol=1e-6)
        np.testing.assert_allclose(patches[:, 0, 4], np.arange(1, 3) / 2 * 3, rtol=1e-6)

    def test_at_the_stored_grid_rescaling_changes_nothing(self):
        plain = positions.angles((24, 24), 64, class_token=True)
        np.testing.assert_allclose(
            positions.angles((24, 24), 64, class_token=True, rescale_to=24), plain, rtol=2e-7
        )


def test_an_unknown_way_is_refused():
    with pytest.raises(UserError, match=r"\.resample: .*'official', 'timm'.*, found 'bicubic'"):
        dataclasses.replace(VISION["tiny-test"], resample="bicubic")
