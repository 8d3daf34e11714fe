from softbio_jax.data import benchmark
from tests.data.trees import make_fairface


def test_every_figure_is_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, "_BATCH", 4)
    encoded = benchmark.pictures(None, count=2)
    rates = benchmark.reading(encoded, tmp_path, batches=1)
    assert len(rates) == 6
    assert all(rate > 0 for rate in rates.values())
    assert benchmark.memory_growth(tmp_path / "source", batches=1) < 200


def test_planted_copies_are_found(tmp_path):
    make_fairface(tmp_path / "raw", train=20, val=5)
    figures = benchmark.fairface(str(tmp_path / "raw"), tmp_path, planted=10)
    assert figures["rows prepared"] == 25
    assert figures["pictures audited"] == 35
    assert figures["recall of planted copies"] == 1.0
