"""The optimizer's rates: a group's own, its schedule, what a plateau leaves of it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from softbio_jax.checkpoints.manager import CheckpointManager
from softbio_jax.errors import UserError
from softbio_jax.runs import build, optimizer
from softbio_jax.runs.config import OptimizerConfig, config_from
from tests.runs.tiny import changed, config_on

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


@pytest.mark.parametrize("name", ["cosine", "linear", "polynomial"])
def test_a_decaying_rate_keeps_float32s_digits_to_the_last_step(name):
    power = {"power": 1.7} if name == "polynomial" else {}
    config = dataclasses.replace(CONFIG, schedule=name, warmup_steps=7, **power)
    rate = jax.jit(optimizer.schedule(3e-4, config, steps=1000))
    t = np.arange(7, 1000)
    u = (t - 7) / (1000 - 7)
    exact = {"cosine": (1 + np.cos(np.pi * u)) / 2, "linear": 1 - u, "polynomial": (1 - u) ** 1.7}[name]
    np.testing.assert_allclose([float(rate(step)) for step in t], 3e-4 * exact, rtol=1e-6)
    assert float(rate(1000)) == float(rate(1100)) == 0


@pytest.mark.parametrize("name", ["adamw", "adam"])
def test_adams_bias_correction_is_that_of_float64(name):
    config = OptimizerConfig(
        name=name, rates={"heads": 1e-2}, schedule="constant", weight_decay=0.0, clip_norm=0.0, eps=1e-12
    )
    adam = optimizer.make(config, {"heads/age/kernel": "heads"}, steps=10_000)
    params = {"heads": {"age": {"kernel": jnp.ones(1)}}}
    zeros = jax.tree.map(jnp.zeros_like, params)
    update = jax.jit(adam.update)
    _, state = update(params, adam.init(params), params)  # the gradient is 1, then 0
    m, v = 0.1, 0.001
    for t in range(2, 20):
        moved, state = update(zeros, state, params)
        m, v = 0.9 * m, 0.999 * v
        exact = m / (1 - 0.9**t) / np.sqrt(v / (1 - 0.999**t))
        np.testing.assert_allclose(-moved["heads"]["age"]["kernel"], 1e-2 * exact, rtol=1.5e-6)


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


NAMES = ("adamw", "adam", "sgd", "lion", "lamb", "adafactor")
PARAMS = {"heads": {"age": {"kernel": np.float32([0.5, -1.0, 2.0]), "bias": np.float32([0.1, 0.2, 0.3])}}}
PARAMS["encoder"] = {"lora_b": np.float32([[0.2, -0.4], [0.0, 0.7]])}
LABELS = {"heads/age/kernel": "heads", "heads/age/bias": "heads", "encoder/lora_b": "adapter_b"}
PEAKS = {"heads": 1e-2, "adapter_b": 3e-2}
DECAY = 0.1


def config_of(name, **values):
    decay = {} if name == "adam" else {"weight_decay": DECAY}
    return OptimizerConfig(name=name, rates=PEAKS, schedule="constant", clip_norm=0.0, **decay | values)


def gradients(steps):
    generator = np.random.default_rng(0)
    return [
        jax.tree.map(lambda leaf: generator.normal(size=leaf.shape).astype(np.float32), PARAMS)
        for _ in range(steps)
    ]


def leaf_of(tree, owner, leaf):
    return tree[owner]["age"][leaf] if owner == "heads" else tree[owner][leaf]


def directions(name, found):
    """What each optimizer's paper divides or takes the sign of, of the gradients of one leaf so far."""
    m, v, t = np.zeros_like(found[0]), np.zeros_like(found[0]), len(found)
    for i, g in enumerate(found, 1):
        if name == "sgd":
            m = 0.9 * m + g
        elif name == "lion":
            sign, m = np.sign(0.9 * m + 0.1 * g), 0.99 * m + 0.01 * g
        elif name == "adafactor":
            share = 1 - i**-0.8
            v = share * v + (1 - share) * (g**2 + 1e-30)
            m = g / np.sqrt(v)
            m = m / max(1.0, float(np.sqrt(np.mean(m**2))))
        else:
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
    if name == "lion":
        return sign
    if name in ("sgd", "adafactor"):
        return m
    eps = 1e-6 if name == "lamb" else 1e-8
    return m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + eps)


@pytest.mark.parametrize("name", NAMES)
def test_every_optimizer_follows_its_paper_at_the_rate_of_the_group(name):
    made = optimizer.make(config_of(name), LABELS, steps=100)
    params, state, seen = PARAMS, made.init(PARAMS), []
    for gradient in gradients(4):
        updates, state = made.update(gradient, state, params)
        seen.append(gradient)
        for owner, leaf, rate in (
            ("heads", "kernel", 1e-2),
            ("heads", "bias", 1e-2),
            ("encoder", "lora_b", 3e-2),
        ):
            before = np.asarray(leaf_of(params, owner, leaf))
            move = directions(name, [leaf_of(tree, owner, leaf) for tree in seen])
            if name != "adam" and leaf != "bias":
                move = move + DECAY * before
            if name == "lamb":
                move = move * np.linalg.norm(before) / np.linalg.norm(move)
            found = leaf_of(updates, owner, leaf)
            # 1 - 0.999^t has a rounding error of 6e-8 / 1e-3, and terms of order 1 may cancel.
            np.testing.assert_allclose(found, -rate * move, rtol=1e-4, atol=1e-4 * rate, err_msg=leaf)
        params = optax.apply_updates(params, updates)


@pytest.mark.parametrize("name", NAMES)
def test_every_optimizer_resumes_in_the_same_bits(name, tmp_path):
    """The state, moving average included, through a checkpoint after two of four steps."""
    made = optimizer.make(config_of(name, ema_decay=0.9), LABELS, steps=100)

    @jax.jit
    def step(params, state, gradient):
        updates, state = made.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    state = whole = (jax.tree.map(jnp.asarray, PARAMS), jax.jit(made.init)(PARAMS))
    for i, gradient in enumerate(gradients(4)):
        whole = step(*whole, gradient)
        if i == 1:
            manager = CheckpointManager(tmp_path, keep=1, base="b")
            manager.save(2, whole, {})
            manager.wait()
            state = manager.restore(2, whole).state
            manager.close()
        elif i > 1:
            state = step(*state, gradient)
    jax.tree.map(np.testing.assert_array_equal, state, whole)


@pytest.mark.parametrize(
    ("name", "of_trained"),
    [("adamw", 2), ("adam", 2), ("lamb", 2), ("sgd", 1), ("lion", 1), ("adafactor", 1)],
)
@pytest.mark.parametrize("ema", [0.0, 0.99])
def test_the_shapes_that_the_planner_compiles_have_the_state_of_the_optimizer(config, name, of_trained, ema):
    """Moments per trained parameter; no leaf of this model is large enough to be factored."""
    run = build.build(changed(config, optimizer__name=name, optimizer__ema_decay=ema))
    state, _ = build.abstract_start(run)
    trained = sum(leaf.size for leaf in jax.tree.leaves(state.trainable))
    held = sum(leaf.size for leaf in jax.tree.leaves(state.opt_state) if leaf.dtype == jnp.float32)
    placeholders = 2 * len(jax.tree.leaves(state.trainable)) if name == "adafactor" else 0  # rows, columns
    assert held == (of_trained + bool(ema)) * trained + placeholders


@pytest.mark.parametrize(
    ("name", "values", "shape"),
    [
        ("cosine", {}, lambda u: (1 + np.cos(np.pi * u)) / 2),
        ("linear", {}, lambda u: 1 - u),
        ("polynomial", {}, lambda u: (1 - u) ** 2),
        ("polynomial", {"power": 0.5}, lambda u: (1 - u) ** 0.5),
        ("inverse_sqrt", {}, lambda u: np.sqrt(4 / (4 + 16 * u))),
        ("constant", {}, lambda u: 1.0),
        ("plateau", {}, lambda u: 1.0),
    ],
)
@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_the_rate_that_is_logged_is_the_one_that_moves_the_leaves(name, values, shape, scale):
    config = OptimizerConfig(
        name="sgd",
        momentum=0.0,
        rates=PEAKS,
        schedule=name,
        warmup_steps=4,
        weight_decay=0.0,
        clip_norm=0.0,
        **values,
    )
    made = optimizer.make(config, LABELS, steps=20)
    rates = jax.jit(optimizer.effective_rates(config, PEAKS, steps=20))
    state, ones = made.init(PARAMS), jax.tree.map(np.ones_like, PARAMS)
    update = jax.jit(made.update)
    for t in range(20):
        logged = rates(state, jnp.float32(scale))
        updates, state = update(ones, state, PARAMS, rate_scale=jnp.float32(scale))
        expected = scale * (t / 4 if t < 4 else shape((t - 4) / 16))
        for group, leaf in (
            ("heads", updates["heads"]["age"]["bias"]),
            ("adapter_b", updates["encoder"]["lora_b"]),
        ):
            np.testing.assert_allclose(logged[group], expected * PEAKS[group], rtol=1e-5, atol=1e-9)
            np.testing.assert_allclose(-leaf, logged[group], rtol=1e-5, atol=1e-9)


def test_the_average_follows_its_formula_and_begins_at_the_weights():
    made = optimizer.make(config_of("sgd", ema_decay=0.4), LABELS, steps=100)
    params, state = PARAMS, made.init(PARAMS)
    expected = PARAMS["encoder"]["lora_b"].astype(np.float64)
    for t, gradient in enumerate(gradients(12), 1):
        updates, state = made.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        decay = min(0.4, (1 + t) / (10 + t))  # 2/11, 3/12, ..., then 0.4
        expected = decay * expected + (1 - decay) * np.asarray(params["encoder"]["lora_b"])
        np.testing.assert_allclose(state[-1].average["encoder"]["lora_b"], expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"name": "sgd", "b2": 0.95}, "optimizer.b2: expected no value with sgd, found 0.95; fix: remove it"),
        ({"name": "sgd", "b1": 0.8}, "optimizer.b1: expected no value with sgd"),
        ({"name": "sgd", "eps": 1e-6}, "optimizer.eps: expected no value with sgd"),
        ({"name": "lion", "eps": 1e-6}, "optimizer.eps: expected no value with lion"),
        ({"name": "adamw", "momentum": 0.9}, "optimizer.momentum: expected no value with adamw"),
        ({"name": "adafactor", "b1": 0.5}, "optimizer.b1: expected no value with adafactor"),
        ({"name": "adam", "weight_decay": 0.1}, "optimizer.weight_decay: expected no value with adam"),
        ({"power": 3.0}, "optimizer.power: expected no value with the schedule cosine"),
        ({"schedule": "inverse_sqrt"}, "optimizer.warmup_steps: expected at least 1 for inverse_sqrt"),
        ({"name": "adamv"}, "optimizer.name: expected one of 'adamw', 'adam'"),
        ({"ema_decay": 1.0}, "optimizer.ema_decay: expected a number from 0 and below 1"),
    ],
)
def test_a_field_that_the_optimizer_does_not_read_is_refused(values, told):
    with pytest.raises(UserError, match=told) as caught:
        OptimizerConfig(rates=PEAKS, **values)
    assert "\n" not in str(caught.value)


def test_defaults_are_those_of_the_optimizer_and_are_read_back(data_root):
    """A configuration names what was used, so that a later default changes no run."""
    for name in NAMES:
        made = config_from(changed(config_on(data_root), optimizer__name=name, optimizer__b2=0.999)).optimizer
        assert made == OptimizerConfig(**dataclasses.asdict(made))
    assert OptimizerConfig(rates={}) == OptimizerConfig(rates={}, b1=0.9, b2=0.999, eps=1e-8)
    assert OptimizerConfig(rates={}, name="lion").b2 == 0.99
    assert OptimizerConfig(rates={}, name="lamb").eps == 1e-6
