"""One step over any split of the batch is the step on one device."""

import jax
import numpy as np
import pytest

from softbio_jax.runs import parallel
from softbio_jax.runs.session import Session
from tests.runs.test_step import batch_of
from tests.runs.tiny import changed, config_on, run_of


def _batches(case):
    """Two batches of 16: row r is on device r // 2 of 8 and in microbatch r % M."""
    batches = [batch_of(), batch_of()]
    batches[1]["index"] = batches[1]["index"] + 16
    for batch in batches:
        keep = np.ones(16, bool)
        if case == "shard":  # devices 0 to 3 hold no emotion
            keep[:8] = False
        elif case == "microbatch":  # nor do microbatches 0 and 2
            keep[::2] = False
        elif case == "batch":
            keep[:] = False
        batch["mask/emotion"] = batch["mask/emotion"] & keep
        batch["labels/emotion"] = np.where(batch["mask/emotion"], batch["labels/emotion"], -1)
    return batches


@pytest.fixture(scope="module")
def module_patch():
    with pytest.MonkeyPatch.context() as patch:
        yield patch


CASES = ("none", "shard", "microbatch", "batch")


def _outputs(session, case):
    """The metrics of every step and the state after the last."""
    first = jax.tree.map(np.array, session.state)
    metrics = [jax.device_get(session.train(batch)) for batch in _batches(case)]
    state = jax.tree.map(np.array, session.state)
    like = session.state
    session.state = jax.tree.map(lambda x, s: jax.device_put(x, s.sharding), first, like)
    return metrics, state


@pytest.fixture(scope="module")
def outputs_of(data_root, module_patch):
    """(devices, microbatches, fsdp) -> {case: outputs}; each layout compiles once."""
    # The tiny tower's weights are otherwise too small to be sharded.
    module_patch.setattr(parallel, "_SHARDED_FROM", 0)
    made = {}

    def make(devices, microbatches, fsdp=1):
        layout = (devices, microbatches, fsdp)
        if layout not in made:
            config = changed(
                config_on(data_root),
                train__microbatches=microbatches,
                mesh={"fsdp": fsdp},
                compute={"matmul_precision": "highest"},
                method__lora__dropout=0.3,
            )
            session = Session(run_of(config)[0], devices=jax.devices()[:devices])
            session.compile()
            made[layout] = {case: _outputs(session, case) for case in CASES}
        return made[layout]

    return make


# Adam divides by the root of the second moment, so a gradient that is zero but for rounding moves
# its weight by up to the rate: the moments, which are the gradient's own, are compared instead.
def _assert_equal(found, expected):
    (found_metrics, found_state), (metrics, state) = found, expected
    for ours, theirs in zip(found_metrics, metrics, strict=True):
        for name in theirs:
            np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-6, atol=1e-6, err_msg=name)
    for ours, theirs in (
        (found_state.batch_stats, state.batch_stats),
        (found_state.opt_state, state.opt_state),
    ):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6), ours, theirs)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(
    "layout",
    [
        (8, 1),
        pytest.param((1, 4), marks=pytest.mark.long),
        pytest.param((8, 2), marks=pytest.mark.long),
        pytest.param((8, 1, 4), marks=pytest.mark.long),
    ],
)
def test_a_step_does_not_depend_on_the_layout(outputs_of, layout, case):
    _assert_equal(outputs_of(*layout)[case], outputs_of(1, 1)[case])
