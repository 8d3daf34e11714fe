"""What scripts/benchmarks/data.py measures, on a few images."""

import pathlib

import pytest

from tests.data.trees import make_fairface

ROOT = pathlib.Path(__file__).resolve().parent.parent


@pytest.fixture
def data_probe(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    from benchmarks.probes import data

    return data


def test_every_value_is_measured(data_probe, tmp_path, monkeypatch):
    monkeypatch.setattr(data_probe, "_BATCH", 4)
    encoded = data_probe.jpegs(None, count=2)
    rates = data_probe.reading(encoded, tmp_path, batches=1)
    assert len(rates) == 6
    assert all(rate > 0 for rate in rates.values())
    assert data_probe.memory_growth(tmp_path / "source", batches=1) < 200


def test_preparing_is_measured(data_probe, tmp_path):
    make_fairface(tmp_path / "raw", train=20, val=5)
    values = data_probe.fairface(str(tmp_path / "raw"), tmp_path)
    assert values["rows prepared"] == 25
    assert values["seconds to prepare"] > 0
