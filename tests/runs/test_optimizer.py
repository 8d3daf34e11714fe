"""The optimizer's rates: a group's own, its schedule, what a plateau leaves of it."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from softbio_jax.errors import UserError
from softbio_jax.runs import optimizer
from softbio_jax.runs.config import OptimizerConfig

CONFIG = OptimizerConfig(
    rates={"heads": 1e-2, "adapter_a": 1e-3}, schedule="plateau", weight_decay=0.0, clip_norm=0.0
)
GROUPS = {"heads/age/kernel": "heads", "encoder/lora_a": "adapter_a"}


def first_step(config, **kw):
    """How far AdamW's first step moves each leaf: its rate, whatever the gradient."""
    params = {"heads": {"age": {"kernel": jnp.zeros(3)}}, "encoder": {"lora_a": jnp.zeros(3)}}
    gradient = {"heads": {"age": {"kernel": jnp.ones(3)}}, "encoder": {"lora_a": -jnp.ones(3)}}
    adamw = optimizer.make(config, GROUPS, steps=10)
    state = adamw.init(params)
    adamw.update(gradient, state, params)
    # Step 0 is the end of a warm-up of none, at rate zero.
    _, state = adamw.update(gradient, state, params)
    moved, _ = adamw.update(gradient, state, params, **kw)
    return float(-moved["heads"]["age"]["kernel"][0]), float(moved["encoder"]["lora_a"][0])


def test_each_group_moves_at_its_rate():
    np.testing.assert_allclose(first_step(CONFIG), (1e-2, 1e-3), rtol=1e-4)


def test_a_plateau_lowers_every_rate():
    np.testing.assert_allclose(first_step(CONFIG, rate_scale=0.1), (1e-3, 1e-4), rtol=1e-4)


def test_a_plateau_lowers_no_rate_below_the_least():
    config = dataclasses.replace(CONFIG, least_rate=5e-4)
    np.testing.assert_allclose(first_step(config, rate_scale=0.1), (1e-3, 5e-4), rtol=1e-4)
    np.testing.assert_allclose(first_step(config, rate_scale=0.01), (5e-4, 5e-4), rtol=1e-4)


def test_the_least_rate_raises_none():
    config = dataclasses.replace(CONFIG, least_rate=1.0)
    np.testing.assert_allclose(first_step(config), (1e-2, 1e-3), rtol=1e-4)


def test_a_group_without_a_rate_is_told_in_one_line():
    config = dataclasses.replace(CONFIG, rates={"heads": 1.0})
    with pytest.raises(UserError, match=r"optimizer\.rates: expected a rate for adapter_a, heads"):
        optimizer.make(config, GROUPS, steps=10)


def test_the_older_name_of_a_group_is_read():
    old = OptimizerConfig(rates={"heads": 1e-2, "log_sigma": 1e-3})
    assert old == OptimizerConfig(rates={"heads": 1e-2, "log_var": 1e-3})
    with pytest.raises(UserError, match=r"optimizer\.rates\.log_sigma: .* remove log_sigma"):
        OptimizerConfig(rates={"log_var": 1e-2, "log_sigma": 1e-3})


def test_states_of_older_checkpoints_keep_their_paths():
    made = optimizer.make(OptimizerConfig(rates={"log_var": 1e-3}), {"s": "log_var"}, steps=10)
    assert list(made.init({"s": jnp.zeros(())})[-1].inner_states) == ["log_sigma"]
