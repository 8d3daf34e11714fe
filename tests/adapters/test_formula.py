"""An adapter with a formula of its own: (x W) with some outputs exchanged by a trained share."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from softbio_jax.adapters.config import AdapterRules, TaskRules
from softbio_jax.adapters.math import Formula
from softbio_jax.adapters.merge import merge
from softbio_jax.adapters.methods import FROZEN, HEADS, Method
from softbio_jax.errors import UserError
from softbio_jax.interop import peft
from softbio_jax.models import flops
from softbio_jax.params import flatten, unflatten
from tests.adapters import towers
from tests.compiling import quick_jit


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mixed(Formula):
    """y = x W + strength (x (a + b)) U with a full matrix U, zero at the start, and drawn a, b."""

    strength: float

    def init(self, key, inputs, outputs):
        return {
            "full": jnp.zeros((inputs, outputs)),
            "mix": jax.random.normal(key, (inputs,)),
            "shift": jax.random.normal(key, (inputs,)),
        }

    def apply(self, x, kernel, leaves):
        mixed = x * (leaves["mix"] + leaves["shift"]).astype(x.dtype)
        return x @ kernel + self.strength * (mixed @ leaves["full"].astype(x.dtype))

    def merge(self, kernel, leaves):
        scale = leaves["mix"] + leaves["shift"]
        return kernel + self.strength * scale[..., None] * leaves["full"]

    def products(self, inputs, outputs):
        return 2 * inputs * outputs


RULES = AdapterRules(
    rules=(
        ("encoder/trunk/attn/qkv", Mixed(strength=0.5)),
        ("pool/mlp/c_proj", Mixed(strength=2.0)),
        ("encoder/trunk/mlp/c_fc", towers.DORA),
    )
)
METHOD = Method(
    name="mixed",
    rules=RULES,
    groups=(
        *HEADS,
        (".*/(full|mix|shift)", "adapter_a"),
        (".*/(lora_[ab]|dora_magnitude)", "adapter_b"),
        (".*", FROZEN),
    ),
)


@pytest.fixture(scope="module")
def model():
    return towers.model(METHOD)


@pytest.fixture(scope="module")
def drawn(model):
    """The parameters with all that is adapted drawn instead of fresh."""
    flat = flatten(towers.variables(model)["params"])
    rng = np.random.default_rng(0)
    return unflatten(
        {
            path: 0.05 * rng.standard_normal(leaf.shape).astype(np.float32)
            if path.endswith(("/full", "/lora_b"))
            else leaf
            for path, leaf in flat.items()
        }
    )


def logits(model, variables):
    return model.apply(variables, towers.images(model.config))


def test_its_leaves_lie_beside_the_kernels_it_adapts(model):
    shapes = {
        path: leaf.shape
        for path, leaf in flatten(towers.variables(model)["params"]).items()
        if path.endswith("/full")
    }
    kernels = flatten(towers.variables(model)["params"])
    assert shapes == {
        f"{layer}/full": kernels[f"{layer}/kernel"].shape
        for layer in ("encoder/trunk/attn/qkv", "pool/mlp/c_proj")
    }


def test_what_is_drawn_is_drawn_anew_in_every_block_and_leaf(model):
    flat = flatten(towers.variables(model)["params"])
    mix, shift = (flat[f"encoder/trunk/attn/qkv/{name}"] for name in ("mix", "shift"))
    assert mix.shape == (model.config.layers, model.config.width)
    assert len({row.tobytes() for row in np.asarray([*mix, *shift])}) == 2 * model.config.layers


def test_a_fresh_one_changes_no_bit(model):
    variables, twin = towers.variables(model), towers.plain_twin(model)
    plain = {path for path in flatten(towers.variables(twin)["params"])}
    kept = {p: leaf for p, leaf in flatten(variables["params"]).items() if p in plain}
    for task, found in logits(twin, variables | {"params": unflatten(kept)}).items():
        np.testing.assert_array_equal(found, logits(model, variables)[task])


def test_merging_equals_applying_and_leaves_nothing(model, drawn):
    variables, twin = towers.variables(model), towers.plain_twin(model)
    merged = merge(drawn, RULES)
    assert flatten(merged).keys() == flatten(towers.variables(twin)["params"]).keys()
    applied = logits(model, variables | {"params": drawn})
    for task, found in logits(twin, variables | {"params": merged}).items():
        np.testing.assert_allclose(found, applied[task], atol=2e-5)
        assert np.abs(found - logits(model, variables)[task]).max() > 1e-3


def test_gradients_reach_it(model):
    variables = towers.variables(model)

    def loss(params):
        return sum(jnp.sum(x**2) for x in logits(model, variables | {"params": params}).values())

    gradient = flatten(quick_jit(jax.grad(loss))(variables["params"]))
    assert all(np.abs(leaf).max() > 0 for path, leaf in gradient.items() if path.endswith("/full"))


def test_it_is_labelled_like_any_other_adapter(model):
    groups = METHOD.label(list(flatten(towers.variables(model)["params"])))
    assert groups["encoder/trunk/attn/qkv/full"] == "adapter_a"
    assert groups["encoder/trunk/attn/qkv/kernel"] == FROZEN


def test_its_operations_are_counted(model):
    config = model.config
    tokens = (config.image_size // config.patch_size) ** 2 + config.class_token
    rules = AdapterRules(rules=(("encoder/trunk/attn/qkv", Mixed(strength=1.0)),))
    found = flops.adapter_flops(config, rules)
    assert found.dense == config.layers * tokens * 2 * config.width * 3 * config.width
    assert flops.dora_norm_flops(config, rules).dense == 0


def test_there_is_no_peft_file_of_it(drawn):
    with pytest.raises(UserError, match=r"encoder/trunk/attn/qkv: .*found Mixed; fix: .*safetensors"):
        peft.collect(drawn, RULES)


def test_the_tasks_own_layers_stay_lora():
    own = TaskRules(rules=((".*", towers.LORA),))
    with pytest.raises(UserError, match="together with per-task adapters"):
        AdapterRules(rules=RULES.rules, per_task=own)
