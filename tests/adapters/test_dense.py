"""The adapted dense layer inside the model: identity at the start, formulas, dropout, bad ranks."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from softbio_jax.adapters import methods
from softbio_jax.adapters.config import NO_ADAPTERS, AdapterRules, LoRAConfig
from softbio_jax.adapters.dense import AdaptedDense
from softbio_jax.errors import UserError
from softbio_jax.models import elementwise
from softbio_jax.params import flatten, unflatten
from tests.adapters import towers
from tests.compiling import OLDER_XLA

SHARED = ["lora", "lora_every_layer", "dora"]
PER_TASK = ["mtlora", "mtlora_task", "mtlora_paper"]


def one_layer(config):
    rules = AdapterRules(rules=((".*", config),)) if config else NO_ADAPTERS
    return AdaptedDense(10, adapters=rules)


def drawn(config, *, fresh=False):
    """A layer's parameters and an input, B and m away from their start unless fresh."""
    x = jax.random.normal(jax.random.key(1), (3, 7, 16))
    params = one_layer(config).init(jax.random.key(0), x)["params"]
    return (params if fresh else towers.stirred(params, size=0.5)), x


def outputs(model, variables, *, batch=3, **kw):
    """Features and logits, compiled as users have it."""
    x = towers.images(model.config, batch)

    def run(variables):
        features = model.apply(variables, x, method="features", **kw)
        return features, model.apply(variables, features, method="classify")

    return jax.jit(run)(variables)


def assert_identity(adapted, *, bias=0.0, **kw):
    variables = towers.variables(adapted)
    if bias:
        flat = flatten(variables["params"])
        flat |= {path: leaf + bias for path, leaf in flat.items() if path.endswith("qkv/bias")}
        variables = variables | {"params": unflatten(flat)}
    ours = outputs(adapted, variables, **kw)
    plain = variables | {"params": towers.without_adapters(variables["params"])}
    wanted = outputs(towers.plain_twin(adapted), plain, **kw)
    # jax 0.7.2 fuses the layers around an adapter otherwise: up to 7e-7 on features near 1.
    same = functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-6 if OLDER_XLA else 0)
    jax.tree.map(same, ours, wanted)


@pytest.mark.parametrize(
    ("name", "batch"), [*((name, 3) for name in (*SHARED, *PER_TASK)), ("dora", 1), ("mtlora", 8)]
)
def test_a_fresh_adapter_leaves_the_logits_bit_for_bit(name, batch):
    assert_identity(towers.model(towers.METHODS[name]), batch=batch)


def test_a_fresh_adapter_leaves_a_tower_of_other_parts_bit_for_bit():
    assert_identity(towers.model(towers.METHODS["mtlora"], "tiny-dense"))


@pytest.mark.long
def test_a_fresh_adapter_leaves_a_tower_whose_keys_have_no_bias_bit_for_bit():
    assert_identity(towers.model(towers.METHODS["mtlora"], "tiny-dinov3-plus"), bias=0.5)


@pytest.mark.long
@pytest.mark.parametrize("name", ["dora", "mtlora", "mtlora_task", "mtlora_paper"])
def test_a_fresh_adapter_leaves_a_published_tower_bit_for_bit(name):
    assert_identity(towers.model(towers.METHODS[name], "PE-Core-T16-384"), batch=2)


@pytest.mark.parametrize("name", SHARED)
def test_a_fresh_adapter_leaves_the_features_while_it_drops(name):
    rules = towers.METHODS[name].rules
    noisy = tuple((p, dataclasses.replace(c, dropout=0.5)) for p, c in rules.rules)
    method = dataclasses.replace(towers.METHODS[name], rules=dataclasses.replace(rules, rules=noisy))
    assert_identity(towers.model(method), rows=jnp.arange(3), rngs={"dropout": jax.random.key(5)})


@pytest.mark.skipif(OLDER_XLA, reason="the layers around an adapter are fused otherwise anyway")
def test_a_norm_that_is_fused_would_not_leave_them(monkeypatch):
    # Why `row_mean` is a product on the CPU.
    monkeypatch.setattr(elementwise, "_by_product", elementwise._by_sum)
    with pytest.raises(AssertionError):
        assert_identity(towers.model(towers.METHODS["mtlora"]))


def test_lora_is_x_w_plus_s_x_a_b():
    config = LoRAConfig(rank=4, alpha=6.0)
    params, x = drawn(config)
    w = np.float64(params["kernel"]) + 1.5 * np.float64(params["lora_a"]) @ params["lora_b"]
    wanted = np.float64(x) @ w + params["bias"]
    ours = one_layer(config).apply({"params": params}, x)
    np.testing.assert_allclose(ours, wanted, atol=1e-5)


def test_rslora_divides_alpha_by_the_root_of_the_rank():
    assert LoRAConfig(rank=4, alpha=6.0).scale == 1.5
    assert LoRAConfig(rank=4, alpha=6.0, rslora=True).scale == 3.0


def test_dora_scales_each_output_unit_to_its_magnitude():
    config = LoRAConfig(rank=4, alpha=6.0, dora=True)
    params, x = drawn(config)
    v = np.float64(params["kernel"]) + 1.5 * np.float64(params["lora_a"]) @ params["lora_b"]
    w = np.float64(params["dora_magnitude"]) / np.linalg.norm(v, axis=0) * v
    ours = one_layer(config).apply({"params": params}, x)
    np.testing.assert_allclose(ours, np.float64(x) @ w + params["bias"], atol=2e-5)


def test_a_small_change_of_the_magnitude_shows_in_bfloat16():
    # Half a unit in the last place of 1: lost if the gain were rounded before 1 is taken off.
    config = LoRAConfig(rank=4, alpha=6.0, dora=True)
    params, x = drawn(config, fresh=True)
    layer = one_layer(config).clone(dtype="bfloat16")
    moved = params | {"dora_magnitude": params["dora_magnitude"] * 1.003}
    before, after = (
        np.float32(layer.apply({"params": p}, x)) - np.float32(params["bias"]) for p in (params, moved)
    )
    ratio = (after * before).sum() / (before**2).sum()
    np.testing.assert_allclose(ratio, 1.003, atol=7e-4)


def test_initial_a_is_uniform_within_one_over_the_root_of_the_inputs():
    config = LoRAConfig(rank=64, alpha=64.0)
    layer = AdaptedDense(64, adapters=AdapterRules(rules=((".*", config),)))
    params = layer.init(jax.random.key(0), jnp.zeros((1, 400)))["params"]
    a, bound = np.asarray(params["lora_a"]), 1 / np.sqrt(400)
    assert 0.98 * bound < np.abs(a).max() <= bound
    np.testing.assert_allclose(a.std(), bound / np.sqrt(3), rtol=0.02)
    assert not np.any(params["lora_b"])


def test_every_task_starts_from_an_a_of_its_own():
    params = towers.variables(towers.model(towers.METHODS["mtlora"]))["params"]
    a = np.asarray(params["encoder"]["tail"]["attn"]["qkv"]["tasks"]["lora_a"])
    assert a.shape == (1, 3, 3, 32, 4)
    rows = a.reshape(9, -1)
    assert len(np.unique(rows, axis=0)) == 9
    np.testing.assert_allclose(np.abs(rows).max(1), 1 / np.sqrt(32), rtol=0.05)


@pytest.mark.parametrize("dora", [False, True])
def test_dropout_hits_the_adapters_input_alone(dora):
    config = LoRAConfig(rank=4, alpha=6.0, dora=dora, dropout=0.5)
    params, x = drawn(config)
    layer = one_layer(config)
    silent = layer.apply({"params": params}, x)
    apply = lambda key, x=x, rows=(0, 1, 2): layer.apply(  # noqa: E731
        {"params": params}, x, jnp.array(rows), rngs={"dropout": key}
    )
    keys = jax.random.split(jax.random.key(7), 1000)
    noisy = apply(keys[0])
    assert not np.allclose(noisy, apply(keys[1]))
    assert not np.allclose(apply(keys[0], x[:1], [0]), apply(keys[0], x[:1], [1]))
    # What a row is given does not depend on those beside it.
    np.testing.assert_allclose(
        apply(keys[0], x[jnp.array([2, 0])], [2, 0]), noisy[jnp.array([2, 0])], atol=1e-5
    )
    # y is linear in drop(x), whose mean is x.
    many = jax.vmap(apply)(keys)
    np.testing.assert_allclose(many.mean(0), silent, atol=6 * float(many.std(0).max()) / 1000**0.5)


@pytest.mark.parametrize("rank", [33, 1000])
@pytest.mark.parametrize("name", ["lora", "mtlora"])
def test_a_rank_larger_than_the_matrix_is_told_in_one_line(name, rank):
    method = methods.method(name, config=LoRAConfig(rank=rank, alpha=1.0))
    with pytest.raises(UserError, match=r"encoder/\w+/attn/\w+: expected at most 32, found"):
        towers.abstract(method, "tiny-test")


@pytest.mark.parametrize("bad", [{"rank": 0}, {"rank": -2}, {"dropout": 1.0}, {"dropout": -0.1}])
def test_impossible_numbers_are_told_in_one_line(bad):
    with pytest.raises(UserError, match="lora"):
        LoRAConfig(**({"rank": 4, "alpha": 4.0} | bad))
