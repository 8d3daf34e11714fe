"""The way to compute a batch that fits: compiled once for a CPU, then with memory as set here."""

import dataclasses

import jax
import pytest

from softbio_jax.errors import UserError
from softbio_jax.models.blocks import REMAT_POLICIES
from softbio_jax.planning import fit, search
from softbio_jax.runs.config import config_from

DEVICES = jax.devices()[:1]
# Bytes of activations per row.
ROW = {"none": 100, "attention": 80, "elementwise": 70, "dots": 60, "full": 20}
WEIGHTS = 1000


@pytest.fixture
def run(config):
    return config_from(config)  # a batch of 16


@pytest.fixture
def tried(monkeypatch):
    """Compiling is simulated: memory grows with the rows at once; what was tried is recorded."""
    tried = []

    def pretended(config, devices, chip, *, keep):
        at_once = config.train.batch_size // config.train.microbatches // len(devices)
        tried.append((config.compute.remat, config.train.microbatches))
        return fit.Fit(
            chips=len(devices),
            batch_size=config.train.batch_size,
            remat=config.compute.remat,
            fits=True,
            arguments=WEIGHTS,
            temporaries=ROW[config.compute.remat] * at_once,
            flops=1,
        )

    monkeypatch.setattr(fit, "fit", pretended)
    return tried


@pytest.mark.long
def test_where_memory_is_not_known_the_first_way_is_taken_and_compiled(run):
    config, found = search.fitting(run, DEVICES)
    assert config == run
    assert found.fits
    assert found.used > 0


@pytest.mark.parametrize(
    ("rows_bytes", "way"),
    [
        (16 * 100, ("none", 1)),
        (16 * 100 - 1, ("attention", 1)),
        (16 * 80 - 1, ("elementwise", 1)),
        (16 * 70 - 1, ("dots", 1)),
        (16 * 60 - 1, ("full", 1)),
        (16 * 20 - 1, ("full", 2)),
        (4 * 20, ("full", 4)),
        (1 * 20, ("full", 16)),
    ],
)
def test_the_quickest_way_that_fits_is_taken(run, tried, rows_bytes, way):
    config, found = search.fitting(run, DEVICES, limit=WEIGHTS + rows_bytes)
    assert (config.compute.remat, config.train.microbatches) == way == tried[-1]
    assert config.train.batch_size == run.train.batch_size, "what is learned does not depend on it"
    assert len(set(tried)) == len(tried)
    assert found.fits


def test_all_policies_are_among_the_ways(run, tried):
    with pytest.raises(UserError):
        search.fitting(run, DEVICES, limit=WEIGHTS)
    assert [remat for remat, parts in tried if parts == 1] == list(REMAT_POLICIES)


def test_microbatches_divide_evenly_over_devices(run, tried):
    with pytest.raises(UserError, match="no way to compute this batch fits"):
        search.fitting(run, jax.devices()[:4], limit=WEIGHTS)
    assert tried[-1] == ("full", 4), "a row on each of four devices is the least"


def test_the_device_reports_its_memory(run, tried):
    class Device:
        device_kind = "something new"

        def memory_stats(self):
            return {"bytes_limit": WEIGHTS + 16 * 60}

    config, _ = search.fitting(run, [Device()])
    assert (config.compute.remat, config.train.microbatches) == ("dots", 1)


def test_the_published_memory_where_the_device_reports_none(run, tried, monkeypatch):
    monkeypatch.setattr("tests.planning.test_choose.ROW", {name: 64 * size for name, size in ROW.items()})

    class Device:
        device_kind = "TPU v5 lite"

        def memory_stats(self):
            return None

    changed = dataclasses.replace(run, train=dataclasses.replace(run.train, batch_size=2**24))
    config, _ = search.fitting(changed, [Device()])
    assert (config.compute.remat, config.train.microbatches) == ("full", 2), "2^24 x 1,280 over 16 GiB"
