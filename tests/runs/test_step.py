import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from softbio_jax.params import flatten
from softbio_jax.runs import session as session_lib
from softbio_jax.runs.session import Session
from tests.runs.tiny import changed, config_on, run_of

TASKS = ("age", "gender", "emotion")


@pytest.fixture(scope="module")
def session(data_root):
    session = Session(run_of(config_on(data_root))[0], devices=jax.devices()[:1])
    session.compile()
    return session


@pytest.fixture
def state(session):
    """A copy of the first state with moments that are not zero, since training gives it away."""
    kept = jax.tree.map(jnp.copy, session.state)
    moments = jax.tree.map(lambda x: x + 0.01 if x.dtype == jnp.float32 else x + 3, kept.opt_state)
    session.state = dataclasses.replace(jax.tree.map(jnp.copy, kept), opt_state=moments)
    yield jax.tree.map(np.array, session.state)
    session.state = kept


def batch_of(absent=()):
    generator = np.random.default_rng(0)
    batch = {
        "image": generator.integers(0, 256, (16, 32, 32, 3), np.uint8),
        "index": np.arange(16, dtype=np.int32),
    }
    for task in TASKS:
        mask = (np.arange(16) % 3 != 0) & (task not in absent)
        batch[f"mask/{task}"] = mask
        batch[f"labels/{task}"] = np.where(mask, np.arange(16) % 2, -1).astype(np.int32)
    return batch


def _of(tree, name):
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    named = {jax.tree_util.keystr(p, simple=True, separator="/"): leaf for p, leaf in leaves}
    return {path: np.asarray(leaf) for path, leaf in named.items() if name in path}


@pytest.mark.parametrize("absent", TASKS)
def test_a_task_absent_from_the_batch_is_left_alone(session, state, absent):
    metrics = session.train(batch_of(absent=(absent,)))
    assert all(np.isfinite(value) for value in metrics.values())
    assert metrics[f"loss/{absent}"] == 0 and metrics[f"count/{absent}"] == 0
    for owner in (f"heads/{absent}/", f"balance/{absent}/"):
        before = _of(state, owner)
        assert len(before) >= 3  # the leaf and its two moments
        for path, leaf in _of(session.state, owner).items():
            np.testing.assert_array_equal(leaf, before[path], err_msg=path)
    for present in set(TASKS) - {absent}:
        before = _of(state.trainable, f"/{present}/")
        for path, leaf in _of(session.state.trainable, f"/{present}/").items():
            assert not np.array_equal(leaf, before[path]), path


@pytest.mark.parametrize("absent", TASKS)
def test_the_adapters_of_an_absent_task_are_left_alone(data_root, absent):
    method = {"name": "mtlora", "lora": {"rank": 2, "alpha": 2.0}}
    session = Session(run_of(changed(config_on(data_root), method=method))[0], devices=jax.devices()[:1])
    # Moments that are not zero: without a gradient they would decay, and move the leaf.
    moments = jax.tree.map(lambda x: x + 0.01 if x.dtype == jnp.float32 else x + 3, session.state.opt_state)
    session.state = dataclasses.replace(session.state, opt_state=moments)
    before = {name: _of(session.state, name) for name in ("/tasks/", "task_probe")}
    before = {path: leaf.copy() for leaves in before.values() for path, leaf in leaves.items()}
    session.compile()
    session.train(batch_of(absent=(absent,)))
    after = _of(session.state, "/tasks/") | _of(session.state, "task_probe")
    assert len(after) == len(before) == 3 * (2 * 9 + 1)  # A and B of nine layers, the probe, two moments each
    for path, leaf in after.items():
        axis = 1 if "/tail/" in path else 0
        for t, task in enumerate(TASKS):
            own, old = (np.take(leaves, t, axis) for leaves in (leaf, before[path]))
            assert np.array_equal(own, old) == (task == absent), (path, task)


def test_the_total_is_that_of_the_present_tasks(session, state):
    metrics = {name: float(value) for name, value in session.train(batch_of(("age",))).items()}
    # s = 0 at the start, so every weight is one and the regulariser zero.
    expected = metrics["loss/gender"] + metrics["loss/emotion"]
    assert metrics["loss/total"] == pytest.approx(expected, rel=1e-6)


def test_an_update_that_is_not_finite_changes_nothing_but_the_counters(session, state):
    poisoned = flatten(session.state.trainable)
    head = session.state.trainable["heads"]["gender"]["dense_out"]
    head["bias"] = head["bias"].at[0].set(jnp.nan)
    before = jax.tree.map(np.array, session.state)
    for count in (1, 2):
        metrics = session.train(batch_of())
        assert metrics["skipped"] == count
    after = dataclasses.replace(session.state, step=before.step, skipped=before.skipped)
    jax.tree.map(np.testing.assert_array_equal, before, after)
    assert session.state.step == 2
    assert len(poisoned) == len(flatten(session.state.trainable))


@pytest.mark.parametrize("part", ["trainable", "opt_state", "batch_stats"])
def test_a_finite_gradient_with_a_result_that_is_not_is_skipped(session, state, part):
    """Each part alone: parameters from a huge first moment, moments and statistics that overflow."""

    values = {
        "trainable": {"/mu/heads/gender/dense_out/bias": 1e38, "/nu/heads/gender/dense_out/bias": 0.0},
        "opt_state": {"/nu/heads/gender/dense_out/bias": np.inf},
        "batch_stats": {"batch_stats/heads/gender": np.inf},
    }[part]

    def huge(path, leaf):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        chosen = [value for part, value in values.items() if part in name]
        return jnp.full_like(leaf, chosen[0]) if chosen else leaf

    session.state = jax.tree_util.tree_map_with_path(huge, session.state)
    before = jax.tree.map(np.array, session.state)
    metrics = session.train(batch_of())
    assert np.isfinite(metrics["loss/total"]) and np.isfinite(metrics["gradient_norm"])
    assert metrics["skipped"] == 1
    jax.tree.map(np.testing.assert_array_equal, before.trainable, session.state.trainable)
    jax.tree.map(np.testing.assert_array_equal, before.opt_state, session.state.opt_state)


@pytest.fixture(scope="module")
def averaging(data_root):
    """A session whose run keeps an average of its weights."""
    config = changed(
        config_on(data_root), method={"name": "lp"}, optimizer__ema_decay=0.5, optimizer__warmup_steps=0
    )
    session = Session(run_of(config)[0], devices=jax.devices()[:1])
    session.compile()
    return session


def test_the_average_moves_with_every_update_but_with_none_that_is_skipped(averaging):
    first = jax.tree.map(np.array, averaging.state.trainable)
    jax.tree.map(np.testing.assert_array_equal, first, averaging.state.opt_state[-1].average)
    averaging.train(batch_of(absent=("age",)))
    moved, kept = jax.tree.map(np.array, (averaging.state.trainable, averaging.state.opt_state[-1]))
    share = 2 / 11
    expected = jax.tree.map(lambda a, b: share * a + (1 - share) * b, first, moved)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), expected, kept.average)
    assert not np.array_equal(kept.average["heads"]["gender"]["dense_out"]["bias"], np.zeros(2))
    jax.tree.map(np.testing.assert_array_equal, first["heads"]["age"], kept.average["heads"]["age"])
    # As the scale is not finite, so is no update.
    averaging.state = dataclasses.replace(averaging.state, rate_scale=averaging.state.rate_scale * np.nan)
    metrics = averaging.train(batch_of())
    assert metrics["skipped"] == 1
    jax.tree.map(np.testing.assert_array_equal, kept, averaging.state.opt_state[-1])
    averaging.state = dataclasses.replace(
        averaging.state, rate_scale=jnp.ones_like(averaging.state.rate_scale)
    )


def test_the_average_is_what_is_evaluated_and_exported(averaging, monkeypatch):
    trained, last = averaging.state.trainable, averaging.state.opt_state[-1]
    assert not np.array_equal(
        *(flatten(tree)["heads/gender/dense_out/bias"] for tree in (trained, last.average))
    )
    seen = []
    monkeypatch.setattr(
        session_lib, "forward", lambda model, variables, image: seen.append(variables) or 1 / 0
    )
    with pytest.raises(ZeroDivisionError):
        averaging._predict_batch(averaging.state, averaging._frozen, {"image": None})
    for params in (averaging.params(), seen[0]["params"]):
        found = flatten(params)
        for path, leaf in flatten(last.average).items():
            np.testing.assert_array_equal(found[path], leaf, err_msg=path)


def test_the_rates_of_a_step_are_among_its_metrics(session, state):
    """Of the update that the step makes, times what a plateau left of it."""
    rates, warmup = session.run.config.optimizer.rates, session.run.config.optimizer.warmup_steps
    done = int(jax.tree.leaves(state.opt_state[-1].inner_states["heads"])[0])  # the updates before
    scale = np.float32(0.5)
    session.state = dataclasses.replace(session.state, rate_scale=session.state.rate_scale * scale)
    metrics = session.train(batch_of())
    u = (done - warmup) / (session.run.config.train.steps - warmup)
    trained = {"heads", "adapter_a", "adapter_b", "log_var"}
    assert {name.removeprefix("rate/") for name in metrics if name.startswith("rate/")} == trained
    for group in trained:
        expected = scale * rates[group] * (1 + np.cos(np.pi * u)) / 2
        np.testing.assert_allclose(metrics[f"rate/{group}"], expected, rtol=1e-5)
