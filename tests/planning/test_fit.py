import dataclasses
import importlib.util

import pytest

from softbio_jax.errors import UserError
from softbio_jax.planning import fit, table
from softbio_jax.train import build
from softbio_jax.train.chips import CHIPS, chip_of
from tests.train.tiny import changed, config_on


def _config(**values):
    return build.config_from(changed(config_on("nowhere"), **values))


def test_the_local_step_is_compiled_without_data_or_weights():
    devices, chip = fit.devices_of("local")
    found = fit.fit(_config(), devices, chip)
    assert found.fits and found.chips == 8 and chip is None
    assert found.arguments > 0 and found.temporaries > 0
    # The frozen tower forward, and backward to its adapters: between two and four times forward.
    forward = 16 * 17 * 3 * 2 * 12 * 32**2
    assert 1.8 * forward < found.flops < 4 * forward
    assert table.verdict(found, topology="local").startswith("fits: batch 16 with remat none")


def test_a_batch_that_does_not_fit_the_mesh_is_told():
    with pytest.raises(UserError, match=r"train.batch_size: expected a multiple of 8"):
        fit.fit(_config(train__batch_size=12), *fit.devices_of("local"))


@pytest.mark.parametrize("topology", ["v5", "v5e", "v99:2x2", ""])
def test_an_unknown_topology_is_told(topology):
    with pytest.raises(UserError, match="unknown topology"):
        fit.devices_of(topology)


def test_the_largest_batch_is_found_by_halving(monkeypatch):
    tried = []

    def pretend(config, devices, chip):
        tried.append(config.train.batch_size)
        fits = config.train.batch_size <= 8 * 11
        return fit.Fit(chips=8, batch_size=config.train.batch_size, remat="none", fits=fits,
                       flops=1, images_per_second=None, needed="much")  # fmt: skip

    monkeypatch.setattr(fit, "fit", pretend)
    found, next_one = fit.largest(_config(), [None] * 8, None)
    assert (found.batch_size, next_one.batch_size) == (88, 96)
    assert found.fits and not next_one.fits
    assert len(tried) == len(set(tried))


def test_the_bound_is_the_published_peak():
    chip = dataclasses.replace(CHIPS["v5e"], flops=1e9)
    found = fit.fit(_config(), fit.devices_of("local")[0], chip)
    assert found.images_per_second == pytest.approx(16 * 8 * 1e9 / found.flops)


@pytest.mark.parametrize(
    ("kind", "name"),
    [("TPU v5 lite", "v5e"), ("TPU v6 lite", "v6e"), ("NVIDIA H100 80GB HBM3", "h100")],
)
def test_chips_are_known_by_what_jax_calls_them(kind, name):
    assert chip_of(kind) is CHIPS[name]


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs the extra tpu")
@pytest.mark.long
def test_a_tpu_step_is_compiled_without_a_tpu():
    found = fit.fit(_config(), *fit.devices_of("v5e:2x4"))
    assert found.fits and found.limit == 16 * 2**30
