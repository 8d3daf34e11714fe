"""A run whose blocks are compiled without a loop, as those of large encoders on a CPU."""

import jax
import numpy as np
import pytest

from softbio_jax.params import flatten
from softbio_jax.runs import build
from softbio_jax.runs.session import Session
from softbio_jax.tasks import TASKS
from tests.runs.tiny import changed, config_on


def a_batch():
    rng = np.random.default_rng(0)
    batch = {"image": rng.integers(0, 256, (16, 32, 32, 3), dtype=np.uint8), "index": np.arange(16)}
    for task in ("age", "gender", "emotion"):
        batch[f"labels/{task}"] = rng.integers(0, TASKS[task].num_classes, 16).astype(np.int32)
        batch[f"mask/{task}"] = np.ones(16, bool)
    return batch


def trained(tmp_path, unroll, *, fsdp=1):
    config = changed(config_on(tmp_path), compute__unroll=unroll, mesh__fsdp=fsdp)
    session = Session(build.build(config), devices=jax.devices()[:fsdp])
    session.compile()
    metrics = session.train(a_batch())
    return session, float(metrics["loss/total"])


@pytest.mark.long
def test_it_trains_and_is_saved_as_with_a_loop(tmp_path):
    """Over two devices that share the weights; by layer within the session only."""
    loop, wanted = trained(tmp_path, 1)
    flat, loss = trained(tmp_path, 3, fsdp=2)
    assert isinstance(flatten(flat._frozen)["encoder/trunk/attn/qkv/kernel"], tuple)
    np.testing.assert_allclose(loss, wanted, rtol=1e-5)
    assert flat.base == loop.base  # a checkpoint of one is the other's
    ours, theirs = flatten(flat.params()), flatten(loop.params())
    assert {path: x.shape for path, x in ours.items()} == {path: x.shape for path, x in theirs.items()}
    for path, leaf in ours.items():
        assert isinstance(leaf, np.ndarray)
        np.testing.assert_allclose(leaf, theirs[path], rtol=1e-4, atol=1e-4, err_msg=path)
