"""Mistakes in the families' parts, put in on purpose, are caught by the stored outputs of the reference."""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from softbio_jax.interop import goldens, ladder, official
from softbio_jax.interop.goldens import named_state
from softbio_jax.models import blocks, elementwise

FOLDER = pathlib.Path(__file__).parent.parent / "goldens"
# Registers, SwiGLU, LayerScale, the bias of the patches, ImageNet's mean, another grid.
CASE = next(case for case in goldens.CASES if case.variant == "tiny-dinov2-reg4")
# The tanh formula of GELU, attention pooling with the blocks' MLP.
SIGLIP2 = next(case for case in goldens.CASES if case.variant == "tiny-siglip2")


def holds(config=CASE.config, state=None, case=CASE):
    state = named_state(official.vision_shapes(case.config)) if state is None else state
    rungs = ladder.vision_rungs(config, state, case.images())
    found = ladder.compare(
        goldens.sampled(rungs), goldens.load(FOLDER, case), noise=goldens.rounding(FOLDER, case)
    )
    return {rung.name: rung.holds for rung in found}["pooled"]


def test_without_a_mistake_the_feature_holds():
    assert holds()


@pytest.mark.parametrize(
    "field",
    [{"mean": (0.5, 0.5, 0.5)}, {"norm_eps": 1e-5}, {"resample": "dinov2"}, {"patch_bias": False}],
    ids=str,
)
def test_a_wrong_declaration_fails(field):
    assert not holds(dataclasses.replace(CASE.config, **field))


@pytest.mark.parametrize(
    "field",
    [
        {"pool_activation": "gelu"},
        {"pool_norm_eps": 1e-5},
        *(
            pytest.param(field, marks=pytest.mark.long)
            for field in (
                {"activation": "gelu"},
                {"norm_eps": 1e-5},
                {"pool_heads": 4},
                {"ln_post": False},
                {"patch_bias": False},
                {"resample": "official"},
                {"mean": (0.485, 0.456, 0.406)},
            )
        ),
    ],
    ids=str,
)
def test_a_wrong_declaration_of_siglip2_fails(field):
    assert not holds(dataclasses.replace(SIGLIP2.config, **field), case=SIGLIP2)


def test_registers_in_another_order_fail():
    state = named_state(official.vision_shapes(CASE.config))
    state["visual.register_tokens"] = np.roll(state["visual.register_tokens"], 1, axis=-1)
    assert not holds(state=state)


def test_the_halves_of_swiglu_the_other_way_fail(monkeypatch):
    def swapped(x):
        value, gate = jnp.split(x, 2, axis=-1)
        return jax.nn.silu(gate) * value

    monkeypatch.setitem(blocks.ACTIVATIONS, "swiglu", swapped)
    assert not holds()


def test_the_gradient_of_swiglu_is_that_of_its_formula():
    x = jnp.asarray(np.random.default_rng(0).standard_normal((3, 8)), jnp.float32)

    def formula(x):
        a, b = x[:, :4], x[:, 4:]
        return a / (1 + jnp.exp(-a)) * b

    np.testing.assert_allclose(elementwise.swiglu(x), formula(x), rtol=1e-6, atol=1e-7)
    ours, theirs = (jax.grad(lambda x, f=f: jnp.sin(f(x)).sum())(x) for f in (elementwise.swiglu, formula))
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
