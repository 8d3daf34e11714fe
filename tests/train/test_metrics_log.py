import json
import types

import jax
import jax.numpy as jnp
import pytest

from softbio_jax.console import QUIET
from softbio_jax.runs.chips import CHIPS
from softbio_jax.runs.config import TrainConfig
from softbio_jax.train import metrics_log
from softbio_jax.train.metrics_log import MetricWriter
from softbio_jax.train.progress import Progress, SkippedUpdates


@pytest.fixture
def made(tmp_path):
    writer = MetricWriter(tmp_path, resume_step=0, active=True)
    progress = Progress(QUIET, first=0, steps=4, batch_size=8)
    skips = SkippedUpdates(None, maximum=9, examples=lambda step: [], console=QUIET)
    config = TrainConfig(steps=4, batch_size=8, log_every=2)
    made = metrics_log.MetricsLog(writer, progress, skips, config)
    yield made
    made.close()


def _metrics(step):
    return {"skipped": jnp.asarray(0), "loss/total": jnp.asarray(float(step))}


def _lines(folder, name):
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def test_a_step_is_read_when_the_next_one_is_under_way(made, tmp_path):
    for step in (1, 2):
        made.take(step, _metrics(step))
    assert _lines(tmp_path, "metrics.jsonl") == []
    made.take(3, _metrics(3))
    assert _lines(tmp_path, "metrics.jsonl")[0]["train/loss/total"] == 2


def test_each_due_step_is_written_once_and_the_last_always_is(made, tmp_path):
    for step in (1, 2, 3, 4):
        made.take(step, _metrics(step))
        if step == 2:
            made.flush()
    made.flush()
    made.flush()
    assert [line["step"] for line in _lines(tmp_path, "metrics.jsonl")] == [2, 4]


def test_the_scale_of_float16_and_its_overflows_are_shown(made, tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(made._progress, "update", lambda step, text: shown.append(text))
    scaled = {"loss_scale": jnp.asarray(32768.0), "overflows": jnp.asarray(3)}
    for step, more in ((2, {}), (4, scaled)):
        made.take(step, _metrics(step) | more)
        made.flush()
    assert "32,768" not in shown[0]
    assert "32,768" in shown[1] and "3 overflows" in shown[1]
    lines = _lines(tmp_path, "metrics.jsonl")
    assert "train/overflows" not in lines[0] and lines[1]["train/overflows"] == 3


def test_the_share_of_the_peak_is_logged_where_the_chip_is_known(made, tmp_path, monkeypatch):
    device = types.SimpleNamespace(device_kind="TPU v5e", memory_stats=lambda: None)
    monkeypatch.setattr(jax, "devices", lambda: [device])
    monkeypatch.setattr(metrics_log, "matmul_flops", lambda jaxpr: 8 * 10**9)
    made.set_step(None)
    made.take(1, _metrics(1))
    made.take(2, _metrics(2))
    made.flush()
    (line,) = _lines(tmp_path, "performance.jsonl")
    peak = jax.device_count() * CHIPS["v5e"].flops
    expected = line["performance/images_per_second"] * 10**9 / peak
    assert line["performance/mfu"] == pytest.approx(expected)


@pytest.mark.parametrize(
    "tail", [b'{"step": 2, "train/lo', b"\0" * 512, b"12", b"null", b'{"step": "x"}', b"\xff\xfe"]
)
def test_damaged_lines_are_dropped_and_the_others_kept(tmp_path, tail):
    whole = b'{"step": 1, "train/loss/total": 1.0}'
    (tmp_path / "metrics.jsonl").write_bytes(whole + b"\n" + tail)
    MetricWriter(tmp_path, resume_step=2, active=True).close()
    assert (tmp_path / "metrics.jsonl").read_bytes() == whole + b"\n"
