"""Trained weights and their moments, spread over fsdp: the same training in less memory."""

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from softbio_jax.checkpoints.manager import CheckpointManager
from softbio_jax.params import flatten
from softbio_jax.runs import build, parallel
from softbio_jax.runs.session import Session
from tests.runs.test_step import batch_of
from tests.runs.tiny import changed, config_on, run_of

STEPS = 3
LAYOUTS = {"replicated": (8, 1), "fsdp": (8, 4), "one": (1, 1)}  # devices, fsdp


@pytest.mark.parametrize(
    ("shape", "spec"),
    [
        ((24, 1024, 4096), P(None, "fsdp")),  # blocks are scanned over the first axis
        ((24, 4096, 1024), P(None, "fsdp")),
        ((1024, 2048), P("fsdp")),
        ((24, 4096, 64), P()),  # an adapter of rank 64: large in all, small a block
        ((24, 1024), P()),
        ((), P()),
    ],
)
def test_large_trained_leaves_are_spread_and_adapters_are_whole(shape, spec):
    assert parallel.trained_sharding(shape, parallel.make_mesh(fsdp=4)).spec == spec


@pytest.mark.parametrize("variant", ["PE-Core-L14-336", "PE-Core-G14-448"])
def test_every_adapter_is_whole(variant):
    config = changed(
        config_on("nowhere"),
        model__variant=variant,
        method={"name": "dora", "lora": {"rank": 64, "alpha": 64.0}},
        optimizer__rates=dict.fromkeys(
            ("adapter_a", "adapter_b", "magnitude", "pooling", "heads", "log_var"), 1e-3
        ),
    )
    state, _ = build.abstract_start(build.build(config))
    laid_out = parallel.trained_shardings(state.trainable, parallel.make_mesh(fsdp=4))
    spread = [path for path, sharding in flatten(laid_out).items() if sharding.spec != P()]
    assert not [path for path in spread if not path.startswith("pool/")]
    assert len(flatten(laid_out)) > 20


@pytest.fixture(scope="module")
def sessions(data_root):
    """name -> a session of method full whose step is compiled; each is made once."""
    made = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parallel, "_TRAINED_FROM", 256)  # the tiny tower's weights are small

        def make(name):
            if name not in made:
                devices, fsdp = LAYOUTS[name]
                config = changed(
                    config_on(data_root),
                    mesh={"fsdp": fsdp},
                    method={"name": "full"},
                    optimizer__rates={"blocks": 1e-3, "pooling": 1e-3, "heads": 1e-2, "log_var": 1e-2},
                    # Adam divides by the root of the second moment: without a large epsilon what
                    # is zero but for rounding would move a weight by up to the rate.
                    optimizer__eps=1e-2,
                    optimizer__warmup_steps=0,
                    compute={"matmul_precision": "highest"},
                )
                made[name] = Session(run_of(config)[0], devices=jax.devices()[:devices])
                made[name].compile()
            return made[name]

        yield make


def _train(session, first=0):
    """The metrics of some steps and the state after them; the session is put back."""
    start = jax.tree.map(np.array, session.state)
    metrics = []
    for step in range(first, first + STEPS):
        batch = batch_of()
        batch["index"] = batch["index"] + 16 * step
        metrics.append(jax.device_get(session.train(batch)))
    like, state = session.state, jax.tree.map(np.array, session.state)
    session.state = jax.tree.map(lambda x, s: jax.device_put(x, s.sharding), start, like)
    return metrics, state


def _assert_close(found, expected):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6), found, expected)


@pytest.mark.long
def test_training_is_that_of_replicated_weights(sessions):
    found, expected = _train(sessions("fsdp")), _train(sessions("replicated"))
    _assert_close(found, expected)
    before = jax.tree.leaves(sessions("fsdp").state.trainable)
    after = jax.tree.leaves(found[1].trainable)
    assert max(np.abs(a - b).max() for a, b in zip(after, before, strict=True)) > 1e-4


def test_moments_lie_where_their_weights_lie_and_stay_there(sessions):
    session = sessions("fsdp")
    shardings = parallel.trained_shardings(session.state, session.mesh)
    assert jax.tree.all(jax.tree.map(lambda x, s: x.sharding == s, session.state, shardings))
    session.train(batch_of())
    assert jax.tree.all(
        jax.tree.map(lambda x, s: x.sharding.is_equivalent_to(s, x.ndim), session.state, shardings)
    )
    kernel = session.state.trainable["encoder"]["trunk"]["mlp"]["c_fc"]["kernel"]
    assert kernel.sharding.spec == P(None, "fsdp")
    assert {shard.data.size for shard in kernel.addressable_shards} == {kernel.size // 4}


def test_a_device_holds_its_share_of_state_and_gradient(sessions):
    held, needed = {}, {}
    for name in ("replicated", "fsdp"):
        leaves = jax.tree.leaves(sessions(name).state)
        held[name] = sum(leaf.addressable_shards[0].data.nbytes for leaf in leaves)
        memory = sessions(name)._compiled.memory_analysis()
        needed[name] = memory.argument_size_in_bytes
    # Of the blocks' stacked kernels, and so of their gradients, nothing is whole.
    program = sessions("fsdp")._compiled.as_text()
    assert "f32[3,8,128]" in program and "f32[3,32,128]" not in program
    assert held["fsdp"] < 0.35 * held["replicated"]
    assert needed["replicated"] - needed["fsdp"] >= held["replicated"] - held["fsdp"]


@pytest.mark.parametrize("name", [pytest.param("one", marks=pytest.mark.long), "replicated"])
def test_a_checkpoint_goes_on_on_another_mesh(sessions, tmp_path, name):
    saving = sessions("fsdp")
    saving.train(batch_of())
    manager = CheckpointManager(tmp_path, keep=1, base=saving.base)
    manager.save(1, saving.state, {})
    manager.close()

    session = sessions(name)
    like = session.state
    restored = CheckpointManager(tmp_path, keep=1, base=session.base).restore_newest(like)
    jax.tree.map(np.testing.assert_array_equal, restored.state, saving.state)
    session.state = restored.state
    _assert_close(_train(session, first=1), _train(saving, first=1))


def test_the_whole_tree_comes_to_the_host(sessions):
    session = sessions("fsdp")
    params = flatten(session.params())
    assert all(isinstance(leaf, np.ndarray) for leaf in params.values())
    for path, leaf in flatten(session.state.trainable).items():
        np.testing.assert_array_equal(params[path], leaf)
    shapes = build.abstract_params(session.run.config, session.run.model)
    assert params.keys() == flatten(shapes).keys()
