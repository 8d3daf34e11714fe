import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from softbio_jax.params import flatten
from softbio_jax.runs.session import Session
from tests.runs.tiny import config_on, run_of

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
