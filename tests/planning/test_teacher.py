"""What a teacher adds to a planned step."""

import jax
import numpy as np
import pytest

from softbio_jax.models.flops import matmul_flops
from softbio_jax.params import flatten
from softbio_jax.planning import fit
from softbio_jax.runs import parallel
from softbio_jax.runs.config import config_from
from tests.runs.taught import random_teacher, taught
from tests.runs.tiny import config_on


@pytest.fixture(scope="module")
def teacher(data_root):
    return random_teacher(data_root).abstract()


def _step(config, teacher):
    return fit.traced_step(config, jax.devices()[:1], teacher)


def test_the_step_has_the_teachers_forward_pass(teacher, data_root):
    """And not a backward pass: images of 48 pixels in the teacher, of 32 in the student."""
    plain, live = config_on(data_root), taught(config_on(data_root), teacher).config
    image = jax.ShapeDtypeStruct((16, 48, 48, 3), np.float32)
    forward = matmul_flops(jax.make_jaxpr(teacher.answers)(teacher.variables, image))
    resize = 16 * 3 * 2 * (48 * 48 * 32 + 48 * 32 * 32)  # bilinear, as two products
    found = matmul_flops(_step(live, teacher).jaxpr) - matmul_flops(_step(config_from(plain), None).jaxpr)
    assert forward <= found <= forward + resize


@pytest.mark.long
def test_its_variables_are_arguments_of_the_step_and_sharded_as_frozen_ones(teacher, data_root, monkeypatch):
    monkeypatch.setattr(parallel, "_SHARDED_FROM", 0)
    config = taught(config_on(data_root) | {"mesh": {"fsdp": 4}}, teacher).config
    traced = fit.traced_step(config, jax.devices(), teacher)
    _, frozen, *_ = traced.args_info[0]
    assert len(jax.tree.leaves(frozen["teacher"])) == len(jax.tree.leaves(teacher.variables))
    with_teacher = fit.fit(config, jax.devices(), None, teacher=teacher).arguments
    alone = fit.fit(config_from(config_on(data_root) | {"mesh": {"fsdp": 4}}), jax.devices(), None).arguments
    unread = ("params/proj", "params/balance/")  # arguments that nothing reads are dropped
    read = [leaf for path, leaf in flatten(teacher.variables).items() if not path.startswith(unread)]
    whole = sum(leaf.size * 4 for leaf in read)
    images = 16 * 3 * (48**2 - 32**2) / 8
    assert whole / 4 <= with_teacher - alone - images < 0.6 * whole


def test_cached_targets_need_no_teacher_on_the_device(teacher, data_root):
    cached = taught(config_on(data_root) | {"distill": {"targets": "cached"}}, teacher).config
    _, frozen, *_ = _step(cached, teacher).args_info[0]
    assert "teacher" not in frozen
