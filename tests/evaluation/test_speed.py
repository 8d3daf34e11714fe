import time

import pytest

from softbio_jax.evaluation import speed
from softbio_jax.runs.session import Session
from tests.runs.tiny import changed, run_of


def test_speed_is_that_of_the_forward_pass(config, monkeypatch):
    run, _ = run_of(changed(config, train__eval_batch_size=24))
    session = Session(run)
    devices, forward, sizes = session.mesh.size, session.forward, []

    def slow(batch):
        sizes.append(len(batch["image"]))
        out = forward(batch)
        time.sleep(0.002 * len(batch["image"]) / devices)
        return out

    monkeypatch.setattr(session, "forward", slow)
    found = speed.measure(session, passes=3, seconds=0.0)
    assert sizes == [devices] * 4 + [24] * 4  # the first of each compiles and is not timed
    assert list(found["throughput"]) == [str(devices), "24"]
    assert found["latency_ms"] > 2
    rate = found["throughput"][str(devices)]
    assert rate == pytest.approx(1e3 * devices / found["latency_ms"])
    assert found["throughput"]["24"] < 24 / (0.002 * 24 / devices)
    assert f"{found['latency_ms']:.1f} ms" in speed.text(found)
