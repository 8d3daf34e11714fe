"""Float16 with dynamic loss scaling: against float32, and what an overflow does."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from softbio_jax.checkpoints import leaves
from softbio_jax.checkpoints.manager import CheckpointManager
from softbio_jax.models import forward
from softbio_jax.models.config import vision_config
from softbio_jax.runs import build
from softbio_jax.runs.session import Session
from softbio_jax.runs.state import FIRST, GROWTH_STEPS, MOST, LossScale, TrainState, as_saved
from tests.runs.test_step import TASKS, batch_of
from tests.runs.tiny import changed, config_on

STEPS = 4
# Rows are not coupled, and nothing is drawn, so that float32 is a reference for float16.
PLAIN = {
    "model__head": {"kind": "linear", "batch_norm": False, "dropout": 0.0},
    "optimizer__warmup_steps": 0,
    "augment": dict.fromkeys(("flip", "brightness", "contrast", "saturation", "degrees"), 0.0)
    | {"translate": 0.0, "scale": (1.0, 1.0), "erase": 0.0},
}
ROUNDING = 2.0**-11  # of one float16 operation, relative


def _scale(scale=FIRST, good_steps=0, overflows=0):
    return LossScale(jnp.float32(scale), jnp.int32(good_steps), jnp.int32(overflows))


def _after(before, **checks):
    found = before.after(**{name: jnp.asarray(finite) for name, finite in checks.items()})
    return tuple(leaf.item() for leaf in (found.scale, found.good_steps, found.overflows))


@pytest.mark.parametrize(
    ("before", "loss", "gradient", "after"),
    [
        (_scale(1024, 5, 2), True, True, (1024, 6, 2)),
        (_scale(1024, 5, 2), True, False, (512, 0, 3)),
        (_scale(1024, GROWTH_STEPS - 1, 2), True, True, (2048, 0, 2)),
        (_scale(1024, GROWTH_STEPS - 1, 2), True, False, (512, 0, 3)),
        # The loss does not depend on the scale.
        (_scale(1024, 5, 2), False, False, (1024, 5, 2)),
        (_scale(1024, 5, 2), False, True, (1024, 5, 2)),
        # Without a scale there is no overflow of it.
        (_scale(1, 5, 2), True, False, (1, 5, 2)),
        (_scale(2, 5, 2), True, False, (1, 0, 3)),
        (_scale(MOST, GROWTH_STEPS - 1, 2), True, True, (MOST, 0, 2)),
    ],
)
def test_the_scale_after_a_step(before, loss, gradient, after):
    assert _after(before, loss=loss, gradient=gradient) == after
    overflow = before.overflowed(loss=jnp.asarray(loss), gradient=jnp.asarray(gradient))
    assert bool(overflow) == (after[2] > before.overflows)


def _session(dtype, devices=1, **values):
    config = changed(config_on("nowhere"), compute__dtype=dtype, train__steps=100, **PLAIN, **values)
    session = Session(build.build(config), devices=jax.devices()[:devices])
    session.compile()
    return session


def _with_scale(session, scale):
    """Replaces the scale, on the devices where it was."""
    before = session.state.loss_scale
    scale = jax.device_put(jnp.float32(scale), before.scale.sharding)
    session.state = dataclasses.replace(session.state, loss_scale=dataclasses.replace(before, scale=scale))


def _assert_no_update(before, after):
    """Parameters, moments, the schedule's count, statistics and log-variances are the same bits."""
    for name in ("trainable", "opt_state", "batch_stats", "rate_scale"):
        jax.tree.map(np.testing.assert_array_equal, getattr(before, name), getattr(after, name))


def _moved(before, after):
    return [
        path
        for path, leaf in leaves.named(after.trainable).items()
        if not np.array_equal(leaf, leaves.named(before.trainable)[path])
    ]


@pytest.fixture(scope="module")
def half():
    return _session("float16", devices=8, train__microbatches=2)


@pytest.fixture
def session(half):
    """The run in float16, before its first step."""
    first = jax.tree.map(jnp.copy, half.state)
    yield half
    half.state = first


def _error():
    """The relative error of a feature in float16.

    A rounding changes an array by at most u of its norm, n roundings one behind the other, whose signs
    are independent, by sqrt(n) u (Higham and Mary 2019, doi:10.1137/18M1226312).
    """
    layers = vision_config("tiny-test").layers + 1  # blocks, and the pooling
    operations = 4 + 2 * 7 * layers  # embedding; norm, two products, adapter, bias, rotation or GELU, sum
    return np.sqrt(operations) * ROUNDING


def _bound(features, params, batch):
    """How far the total loss in float16 may be from that in float32.

    A feature f is off by e |f|, so the logits W f by |W| e |f|, and a cross-entropy, whose gradient is a
    softmax minus a one and therefore no longer than sqrt(2), by sqrt(2) times that. A task's loss is the
    mean over N rows, whose errors are independent, so it is off by 1/sqrt(N) of that, and the total of T
    tasks of weight one by sqrt(T) of a task's.
    """
    of_tasks = [
        np.linalg.norm(params["heads"][task]["dense_out"]["kernel"], 2)
        * np.linalg.norm(features[task], axis=1).max()
        / np.sqrt(batch[f"mask/{task}"].sum())
        for task in TASKS
    ]
    return np.sqrt(2) * _error() * np.linalg.norm(of_tasks)


def _encoder_in_float32(session):
    run = session.run
    model = run.model.clone(compute=dataclasses.replace(run.model.compute, dtype="float32"))
    return jax.jit(lambda params, images: forward.encode(model, params, images))


def _loss(features, params, batch):
    """The total in float64, written out: sum of exp(-s) L + s/2."""
    total = 0.0
    for task in TASKS:
        head, rows = params["heads"][task]["dense_out"], batch[f"mask/{task}"]
        logits = np.float64(features[task])[rows] @ np.float64(head["kernel"]) + np.float64(head["bias"])
        chosen = logits[np.arange(rows.sum()), batch[f"labels/{task}"][rows]]
        loss = np.mean(np.log(np.exp(logits).sum(-1)) - chosen)
        s = params["balance"][task]["log_var"]
        total += np.exp(-s) * loss + s / 2
    return total


def test_the_loss_in_float16_is_that_in_float32_up_to_rounding(session):
    """At the parameters of every step, which float16 has trained."""
    encode, totals = _encoder_in_float32(session), []
    for step in range(STEPS):
        batch, params = batch_of(), session.params()
        features = encode(params, batch["image"])
        metrics = session.train(batch)
        totals.append(_loss(features, params, batch))
        away = abs(float(metrics["loss/total"]) - totals[-1])
        assert 0 < away <= _bound(features, params, batch), f"step {step}"
    assert totals[-1] < totals[0] - 0.1, "it does not learn"
    assert metrics["skipped"] == metrics["overflows"] == 0
    assert {leaf.dtype for leaf in jax.tree.leaves(session.state.trainable)} == {jnp.dtype("float32")}


def test_a_checkpoint_has_the_scale_that_its_run_had(session, tmp_path):
    """Runs in float16 had none in 0.1; theirs are read as they are."""
    plain = as_saved(session.state, [])
    assert type(plain) is TrainState
    for state, step in ((session.state, 1), (plain, 2)):
        manager = CheckpointManager(tmp_path, keep=2, base=session.base, older=as_saved)
        manager.save(step, state, {})
        manager.close()
        restored = manager.restore(step, session.state).state
        assert type(restored) is type(state)
        jax.tree.map(np.testing.assert_array_equal, restored, state)


@pytest.mark.long
def test_float16_trains_as_float32_does(session):
    """Both from the same start; the gradient passes as many operations again, backwards."""
    encode, full = _encoder_in_float32(session), _session("float32")
    assert not [path for path in leaves.named(full.state) if "loss_scale" in path]
    for step in range(4 * STEPS):
        batch, params = batch_of(), full.params()
        bound = _bound(encode(params, batch["image"]), params, batch)
        ours, theirs = session.train(batch), full.train(batch)
        away = abs(float(ours["loss/total"]) - float(theirs["loss/total"]))
        assert away <= bound, f"step {step}"
        norms = float(ours["gradient_norm"]) / float(theirs["gradient_norm"])
        assert abs(norms - 1) <= np.sqrt(2) * _error(), f"step {step}"


def _norm_of(tree, part):
    found = [np.asarray(leaf) for path, leaf in leaves.named(tree).items() if part in path]
    return np.sqrt(sum((leaf**2).sum() for leaf in found))


def test_the_gradient_does_not_depend_on_the_scale_unless_it_vanishes(session):
    """A factor of 2^-40 stands for a loss that small, of which float16 holds no gradient."""
    encoder, norms = {}, {}
    first = jax.tree.map(jnp.copy, session.state)
    for scale in (2.0**-40, 1, 2.0**10, FIRST):
        session.state = jax.tree.map(jnp.copy, first)
        _with_scale(session, scale)
        norms[scale] = float(session.train(batch_of())["gradient_norm"])
        # A tenth of the first gradient, which was clipped to norm 1 after the scale was divided out.
        assert _norm_of(session.state.opt_state, "/mu/") == pytest.approx(
            0.1 * min(1, norms[scale]), rel=1e-4
        )
        encoder[scale] = _norm_of(session.state.opt_state, "/mu/encoder/")
    for found in (norms, encoder):
        assert found[1] == pytest.approx(found[FIRST], rel=1e-2)
        assert found[2.0**10] == pytest.approx(found[FIRST], rel=1e-4)
    assert encoder[FIRST] > 0 == encoder[2.0**-40]


def test_an_overflow_halves_the_scale_and_changes_nothing_else(session):
    _with_scale(session, MOST)
    scale, steps = float(MOST), 0
    while True:
        before = jax.tree.map(np.array, session.state)
        metrics = session.train(batch_of())
        steps += 1
        if session.state.loss_scale.overflows != steps:
            break
        scale /= 2
        assert metrics["overflows"] == steps and metrics["skipped"] == 0
        assert metrics["loss_scale"] == session.state.loss_scale.scale == scale
        assert np.isfinite(metrics["loss/total"]) and not np.isfinite(metrics["gradient_norm"])
        assert session.state.step == steps and session.state.loss_scale.good_steps == 0
        _assert_no_update(before, session.state)
    assert steps > 1, "nothing overflowed"
    assert session.state.loss_scale.good_steps == 1 and metrics["loss_scale"] == scale
    assert _moved(before, session.state)
    assert {int(leaf) for path, leaf in leaves.named(session.state.opt_state).items() if "count" in path} == {
        1
    }


def test_a_loss_that_is_not_finite_is_no_overflow(session):
    head = session.state.trainable["heads"]["gender"]["dense_out"]
    head["bias"] = head["bias"].at[0].set(jnp.nan)
    before = jax.tree.map(np.array, session.state)
    for count in (1, 2):
        metrics = session.train(batch_of())
        assert metrics["skipped"] == count
        assert metrics["overflows"] == 0 and metrics["loss_scale"] == FIRST
    _assert_no_update(before, session.state)


def test_a_gradient_that_is_not_finite_without_a_scale_is_no_overflow(session):
    """The loss of a huge head is finite, its gradient too large for float16 as it is."""
    _with_scale(session, 1)
    head = session.state.trainable["heads"]["age"]["dense_out"]
    head["kernel"] = head["kernel"] * 2.0**30
    metrics = session.train(batch_of())
    assert np.isfinite(metrics["loss/total"]) and not np.isfinite(metrics["gradient_norm"])
    assert metrics["skipped"] == 1 and metrics["overflows"] == 0


def test_one_row_that_overflows_skips_the_step_on_all_devices_and_microbatches(session):
    """Only row 0 has labels: one device of eight, in one of two microbatches."""
    batch = batch_of()
    for task in TASKS:
        batch[f"mask/{task}"] = np.arange(16) == 0
        batch[f"labels/{task}"] = np.where(batch[f"mask/{task}"], 1, -1).astype(np.int32)
    _with_scale(session, MOST)
    before = jax.tree.map(np.array, session.state)
    metrics = session.train(batch)
    assert metrics["overflows"] == 1 and metrics["skipped"] == 0
    _assert_no_update(before, session.state)
    for leaf in jax.tree.leaves(session.state.loss_scale):
        assert len(leaf.addressable_shards) == 8
        assert {shard.data.item() for shard in leaf.addressable_shards} == {leaf.item()}
    while metrics["overflows"] == session.state.step:
        metrics = session.train(batch)
    assert _moved(before, session.state)
