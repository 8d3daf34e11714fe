"""Two optimizer steps of every kind of method: what moves, what has optimizer state."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from softbio_jax.adapters.methods import FROZEN
from softbio_jax.data.augment import AugmentConfig
from softbio_jax.losses import balancing
from softbio_jax.losses.balancing import BalancingConfig
from softbio_jax.params import combine, flatten, partition
from softbio_jax.runs import optimizer, state
from softbio_jax.runs.config import OptimizerConfig
from softbio_jax.runs.step import StepConfig, make_train_step
from tests.adapters import towers
from tests.compiling import quick_jit

GROUPS = ("adapter_a", "adapter_b", "magnitude", "heads", "pooling", "blocks", "log_var")
NAMES = [task.name for task in towers.TASK_SPECS]


def batch(size=32, rows=4, emotion=True):
    rng = np.random.default_rng(0)
    out = {
        "image": rng.integers(0, 256, (rows, size, size, 3), dtype=np.uint8),
        "index": np.arange(rows, dtype=np.int32),
    }
    for task in towers.TASK_SPECS:
        out[f"labels/{task.name}"] = rng.integers(0, task.num_classes, rows).astype(np.int32)
        known = task.name != "emotion" or emotion
        out[f"mask/{task.name}"] = np.full(rows, known)
    return out


def run(name, *, steps=2, balance="uncertainty", decay_all=False, **batch_options):
    method = towers.METHODS[name]
    model = towers.model(method)
    variables, config = towers.variables(model), BalancingConfig(kind=balance)
    params = dict(variables["params"])
    if tree := balancing.init(NAMES, config):
        params["balance"] = tree
    groups = method.label(list(flatten(params)))
    trainable, frozen = partition(params, lambda path: groups[path] != FROZEN)
    stats = dict(variables["batch_stats"])
    if means := balancing.init_means(NAMES, config):
        stats["balance"] = means
    settings = OptimizerConfig(rates=dict.fromkeys(GROUPS, 1e-2), decay_all=decay_all)
    trained = {path: group for path, group in groups.items() if group != FROZEN}
    adamw = optimizer.make(settings, trained, steps=10)
    current = start = state.create(trainable, stats, adamw)
    step = quick_jit(make_train_step(model, adamw, StepConfig(augment=AugmentConfig(), balancing=config)))
    for _ in range(steps):
        current, metrics = step(current, frozen, batch(**batch_options), jax.random.key(0))
    assert step._cache_size() == 1
    return start, current, metrics, combine(current.trainable, frozen), params


@pytest.mark.parametrize(
    "name",
    [pytest.param("dora", marks=pytest.mark.long), "mtlora", pytest.param("ft2", marks=pytest.mark.long)],
)
def test_what_is_trained_moves_and_the_rest_is_bitwise_what_it_was(name):
    start, end, metrics, params, first = run(name)
    assert np.isfinite(metrics["loss/total"])
    before, trained = flatten(first), set(flatten(start.trainable))
    for path, leaf in flatten(params).items():
        if path in trained:
            moved = np.abs(np.asarray(leaf) - before[path])
            rows = moved.reshape(leaf.shape[0], -1) if "/trunk/" in path else moved.reshape(1, -1)
            assert (rows.max(1) > 0).all(), path
        else:
            np.testing.assert_array_equal(leaf, before[path], err_msg=path)
    moments = [
        s
        for s in jax.tree.leaves(end.opt_state, is_leaf=lambda s: isinstance(s, optax.ScaleByAdamState))
        if isinstance(s, optax.ScaleByAdamState)
    ]
    assert sum(len(jax.tree.leaves((s.mu, s.nu))) for s in moments) == 2 * len(trained)


def test_running_means_are_carried_and_an_absent_task_keeps_its_own():
    _, end, metrics, _, _ = run("lora", balance="running_mean", emotion=False)
    means = end.batch_stats["balance"]
    assert float(means["emotion"]["mean"]) == 0 and float(metrics["weight/emotion"]) == 0
    assert float(means["age"]["mean"]) > 0
    np.testing.assert_allclose(metrics["weight/age"] + metrics["weight/gender"], 2, rtol=1e-5)


def test_an_absent_task_leaves_its_head_and_log_variance_alone():
    start, end, _, _, _ = run("lora", emotion=False, decay_all=True)
    before, after = flatten(start.trainable), flatten(end.trainable)
    for path in before:
        if "emotion" in path:
            np.testing.assert_array_equal(after[path], before[path], err_msg=path)
    assert jnp.any(after["balance/age/log_var"] != 0)
