"""A step with a teacher over any split of the batch is the step on one device."""

import jax
import numpy as np
import pytest

from softbio_jax.runs import parallel
from softbio_jax.runs.session import Session
from tests.distributed.test_exactness import _assert_equal
from tests.runs.taught import random_teacher, taught
from tests.runs.test_step import batch_of
from tests.runs.tiny import changed, config_on


def _batch(start):
    """Rows of which only the first half has a label of emotion, and one is black."""
    batch = batch_of()
    image = np.random.default_rng(start).integers(0, 256, (16, 48, 48, 3), np.uint8)
    image[5] = 0
    keep = np.arange(16) < 8
    emotion = {"mask/emotion": batch["mask/emotion"] & keep}
    emotion["labels/emotion"] = np.where(emotion["mask/emotion"], batch["labels/emotion"], -1)
    return batch | emotion | {"image": image, "index": batch["index"] + start}


def _outputs(data_root, *, devices, fsdp=1, microbatches=1):
    config = changed(
        config_on(data_root),
        mesh={"fsdp": fsdp},
        train__microbatches=microbatches,
        compute={"matmul_precision": "highest"},
    )
    run = taught(config, random_teacher(data_root, feature=True))
    session = Session(run, devices=jax.devices()[:devices])
    session.compile()
    metrics = [jax.device_get(session.train(_batch(start))) for start in (0, 16)]
    return metrics, jax.tree.map(np.array, session.state)


@pytest.fixture(scope="module")
def one(data_root):
    return _outputs(data_root, devices=1)


@pytest.mark.parametrize(
    "layout",
    [
        {"devices": 8, "fsdp": 4},
        pytest.param({"devices": 8}, marks=pytest.mark.long),
        pytest.param({"devices": 1, "microbatches": 4}, marks=pytest.mark.long),
    ],
)
def test_a_taught_step_does_not_depend_on_the_layout(data_root, one, layout, monkeypatch):
    monkeypatch.setattr(parallel, "_SHARDED_FROM", 0)  # the tiny teacher's weights are sharded too
    _assert_equal(_outputs(data_root, **layout), one)
