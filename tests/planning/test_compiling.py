"""Steps compiled in a process of their own, and what is proposed where one does not fit."""

import dataclasses
import io
import re

import pytest

from softbio_jax.console import Console
from softbio_jax.errors import UserError
from softbio_jax.models.blocks import REMAT_POLICIES
from softbio_jax.planning import compiling, fit, search, table
from softbio_jax.planning.compiling import Compiler
from softbio_jax.planning.fit import Fit
from softbio_jax.runs.config import config_from
from tests.planning import crash
from tests.runs.tiny import changed, config_on

GIB = 2**30


@pytest.fixture
def config():
    return config_from(changed(config_on("nowhere"), train__batch_size=32))


def test_a_compiler_that_crashes_is_an_error_of_one_line(config, monkeypatch):
    monkeypatch.setattr(compiling, "_fit", crash.fit)
    with (
        Compiler("t4", console=Console(out=io.StringIO())) as compiler,
        pytest.raises(UserError, match=r"the compiler crashed: --topology=t4:1: .*found signal 6; fix: "),
    ):
        compiler.fit(config, name="a step")


def test_an_error_of_the_child_is_the_users(config):
    wide = dataclasses.replace(config, train=dataclasses.replace(config.train, batch_size=3))
    refused = pytest.raises(UserError, match=r"train.batch_size: expected a multiple of 2")
    with Compiler("2xT4", console=Console(out=io.StringIO())) as compiler, refused:
        compiler.fit(wide, name="a step")


def test_a_gpu_that_is_not_here_is_an_estimate(config):
    out = io.StringIO()
    with Compiler("2xT4", console=Console(out=out)) as compiler:
        found = compiler.fit(config, name="batch 32")
    assert re.fullmatch(
        r"step 1, compiling batch 32: 0:00\n(step 1, compiling batch 32: \d:\d\d\n)*", out.getvalue()
    )
    assert (found.chips, found.estimated, found.limit) == (2, True, 16 * GIB)
    assert found.arguments > 0 and found.temporaries > 0 and found.compute_seconds > 0
    assert found.traffic == 0, "the bytes of a CPU's program"
    assert "an estimate" in table.details(found)
    assert "about" in table.verdict(found, topology="2xT4")


def step(batch_size, remat, microbatches, *, limit):
    """A step of 1 GiB and, per row of a microbatch, 1 GiB, a half, a quarter, ... by its remat policy."""
    rows = batch_size // microbatches
    used = GIB + rows * GIB // 2 ** list(REMAT_POLICIES).index(remat)
    made = Fit(chips=1, batch_size=batch_size, remat=remat, fits=True, flops=1, temporaries=used, limit=limit)
    return fit.apply_limit(made)


@pytest.mark.parametrize(
    ("limit", "ways"),
    [
        (17, ["--config.compute.remat=attention", "--config.train.batch_size=16"]),
        (5, ["--config.compute.remat=dots", "--config.train.batch_size=4"]),
        (3, ["--config.compute.remat=full", "--config.train.batch_size=2"]),
        (2, ["--config.compute.remat=full --config.train.microbatches=2", "--config.train.batch_size=1"]),
        (1.5, ["--config.compute.remat=full --config.train.microbatches=4"]),
        (0.5, []),
    ],
)
def test_the_ways_out_are_the_least_that_fit(config, limit, ways):
    def fit_with(batch_size=32, remat="none", microbatches=1):
        made = fit.changed(config, batch_size=batch_size, remat=remat, microbatches=microbatches)
        return step(
            made.train.batch_size, made.compute.remat, made.train.microbatches, limit=int(limit * GIB)
        )

    assert list(REMAT_POLICIES) == ["none", "attention", "elementwise", "dots", "full"]
    found = fit_with()
    assert not found.fits
    assert [flags for flags, way in search.ways_out(config, fit_with, found) if way.fits] == ways


def test_what_does_not_fit_has_no_bound():
    found = step(32, "none", 1, limit=GIB)
    found = dataclasses.replace(found, compute_seconds=1.0, memory_seconds=1.0)
    assert "images/s" not in table.details(found, epoch_images=100)
    assert "images/s" in table.details(dataclasses.replace(found, fits=True), epoch_images=100)
