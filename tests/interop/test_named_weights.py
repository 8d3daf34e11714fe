"""Name-seeded weights: the same numbers everywhere, at scales that make a test sharp."""

import hashlib

import numpy as np
import pytest

from softbio_jax.interop.goldens import named_state, named_uniform, named_weight

BLOCK = "visual.transformer.resblocks.0"


def test_the_stream_is_frozen():
    # The goldens hold outputs for these very numbers: a change of one bit makes them worthless.
    values = named_uniform("a name", (5, 7), seed=3)
    digest = hashlib.sha256(values.astype("<f4").tobytes()).hexdigest()
    assert digest == "bb70ab6913716f92f852ec84d2c1907c621475f0ed32e5e17d47b45d89bfba3b"


@pytest.mark.parametrize("other", [("b", (4, 6), 0), ("a", (6, 4), 0), ("a", (4, 6), 1)])
def test_name_shape_and_seed_each_change_every_value(other):
    name, shape, seed = other
    ours = named_uniform("a", (4, 6), seed=0).ravel()
    assert not np.any(ours == named_uniform(name, shape, seed=seed).ravel())


def test_values_are_uniform_on_minus_one_to_one():
    values = named_uniform("many", (100_000,))
    assert values.dtype == np.float32
    assert values.min() >= -1 and values.max() < 1
    assert np.allclose(np.quantile(values, [0.1, 0.5, 0.9]), [-0.8, 0, 0.8], atol=0.01)


def test_odd_sizes_and_scalars():
    assert named_uniform("scalar", ()).shape == ()
    assert named_uniform("odd", (3,)).shape == (3,)
    assert named_uniform("none", (0, 4)).shape == (0, 4)


def test_query_and_key_rows_alone_are_scaled():
    name, shape = f"{BLOCK}.attn.in_proj_weight", (48, 16)
    plain = named_weight(name, shape, qk_gain=1.0)
    scaled = named_weight(name, shape, qk_gain=3.0)
    assert np.array_equal(scaled[:32], plain[:32] * np.float32(3))
    assert np.array_equal(scaled[32:], plain[32:])


@pytest.mark.parametrize(
    ("name", "shape", "mean", "deviation"),
    [
        (f"{BLOCK}.ln_1.weight", (4096,), 1.0, 0.1),
        (f"{BLOCK}.ln_1.bias", (4096,), 0.0, 0.02),
        (f"{BLOCK}.ls_1.gamma", (4096,), 0.1, 0.02),
        (f"{BLOCK}.mlp.c_fc.weight", (256, 64), 0.0, (3 * 64) ** -0.5),
        ("visual.proj", (64, 256), 0.0, (3 * 64) ** -0.5),
        ("visual.conv1.weight", (64, 3, 8, 8), 0.0, (3 * 3 * 64) ** -0.5),
        ("visual.positional_embedding", (64, 64), 0.0, 0.3),
    ],
)
def test_scales(name, shape, mean, deviation):
    values = named_weight(name, shape)
    assert values.mean() == pytest.approx(mean, abs=0.05 * deviation)
    assert values.std() == pytest.approx(deviation, rel=0.05)


def test_a_state_is_drawn_key_by_key():
    shapes = {"visual.proj": (4, 6), "logit_scale": ()}
    state = named_state(shapes, seed=2)
    assert {key: value.shape for key, value in state.items()} == shapes
    assert np.array_equal(state["visual.proj"], named_weight("visual.proj", (4, 6), seed=2))
