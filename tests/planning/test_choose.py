"""The way to compute a batch that fits, by compiling a small run for one CPU device."""

import dataclasses

import jax
import pytest

from softbio_jax.errors import UserError
from softbio_jax.planning import choose, fit
from softbio_jax.train import build
from tests.train import tiny

DEVICES = jax.devices()[:1]


@pytest.fixture(scope="module")
def run(data_root):
    return build.config_from(tiny.config_on(data_root))


def used(run, remat, microbatches=1):
    changed = dataclasses.replace(
        run,
        train=dataclasses.replace(run.train, microbatches=microbatches),
        compute=dataclasses.replace(run.compute, remat=remat),
    )
    return fit.fit(changed, DEVICES, None).used


def chosen(run, limit):
    config, found = choose.fitting(run, DEVICES, limit=limit)
    assert config.train.batch_size == run.train.batch_size
    assert found.fits
    return config.compute.remat, config.train.microbatches


def test_with_room_nothing_is_computed_twice(run):
    assert chosen(run, limit=0) == ("none", 1)
    assert chosen(run, limit=2**40) == ("none", 1)


def test_with_less_room_activations_are_computed_again(run):
    sizes = {remat: used(run, remat) for remat in ("none", "full")}
    assert sizes["full"] < sizes["none"]
    remat, microbatches = chosen(run, limit=sizes["none"] - 1)
    assert remat in ("dots", "full")
    assert microbatches == 1


def test_with_little_room_the_batch_is_taken_apart(run):
    least = min(used(run, remat) for remat in ("none", "dots", "full"))
    assert used(run, "full", 4) < least
    remat, microbatches = chosen(run, limit=least - 1)
    assert remat == "full"
    assert microbatches > 1


def test_nothing_fits(run):
    with pytest.raises(UserError, match="no way to compute this batch fits"):
        choose.fitting(run, DEVICES, limit=1000)
