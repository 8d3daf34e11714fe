"""Merged towers give what the adapted ones give."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from softbio_jax.adapters.merge import merge
from softbio_jax.errors import UserError
from softbio_jax.params import flatten, unflatten
from tests.adapters import towers
from tests.compiling import quick_jit


def features(model, params):
    x = towers.images(model.config)
    return quick_jit(lambda p: model.apply({"params": p}, x, method="features"))(params)


def drawn(name):
    model = towers.model(towers.METHODS[name])
    return model, towers.stirred(towers.variables(model)["params"])


@pytest.mark.parametrize("name", ["lora_every_layer", "rslora", "dora"])
def test_shared_adapters_fold_into_the_kernels(name):
    model, params = drawn(name)
    plain = towers.plain_twin(model)
    merged = merge(params, model.adapters)
    x = towers.images(plain.config, 1)
    shapes = jax.eval_shape(lambda: plain.init(jax.random.key(0), x))["params"]
    assert {k: v.shape for k, v in flatten(merged).items()} == {
        k: v.shape for k, v in flatten(shapes).items()
    }
    ours, wanted = features(plain, merged), features(model, params)
    for task in wanted:
        np.testing.assert_allclose(ours[task], wanted[task], atol=1e-5)
    start = features(plain, towers.without_adapters(params))
    assert not np.allclose(ours["age"], start["age"], atol=1e-2)


@pytest.mark.parametrize("placement", [pytest.param("last_block", marks=pytest.mark.long), "paper"])
def test_a_task_base_input_folds_into_a_plain_tower_a_task(placement):
    method = towers.methods.mtlora(towers.DORA, base_input="task", placement=placement)
    model = towers.model(method)
    params = towers.stirred(towers.variables(model)["params"])
    wanted = features(model, params)
    for t, task in enumerate(towers.TASK_SPECS):
        tower = merge(params, method.rules, task=t)
        ours = features(towers.plain_twin(model), tower)[task.name]
        np.testing.assert_allclose(ours, wanted[task.name], atol=1e-5)


def test_the_kernels_type_is_kept_and_the_sum_is_in_float32():
    model, params = drawn("lora")
    half = unflatten(
        {k: v.astype(jnp.bfloat16) if k.endswith("kernel") else v for k, v in flatten(params).items()}
    )
    path = ("encoder", "trunk", "attn", "qkv")
    merged, layer = merge(half, model.adapters), half
    for part in path:
        merged, layer = merged[part], layer[part]
    exact = np.float32(layer["kernel"]) + 1.5 * np.float32(layer["lora_a"]) @ layer["lora_b"]
    assert merged["kernel"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(merged["kernel"], exact.astype(jnp.bfloat16))


def test_what_does_not_fold_is_told_in_one_line():
    model, params = drawn("mtlora")
    with pytest.raises(UserError, match="does not fold"):
        merge(params, model.adapters, task=0)
    model, params = drawn("mtlora_task")
    for task in (None, 3):
        with pytest.raises(UserError, match="expected 0 to 2"):
            merge(params, model.adapters, task=task)
    model, params = drawn("lora")
    with pytest.raises(UserError, match="expected task=None"):
        merge(params, model.adapters, task=0)


def test_a_tower_without_adapters_is_itself():
    model, params = drawn("lora")
    plain = towers.without_adapters(params)
    rules = dataclasses.replace(model.adapters, rules=())
    jax.tree.map(np.testing.assert_array_equal, merge(plain, rules), plain)
