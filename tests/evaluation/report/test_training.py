"""Curves and class shares as a run recorded them."""

import dataclasses
import math

import pytest

from softbio_jax.evaluation.report import cost, training
from softbio_jax.evaluation.report.document import Figures, Table, Text
from softbio_jax.thesis import report


def test_series_by_prefix_and_suffix():
    log = [
        {"step": 1, "train/loss": 3.0, "train/loss/gender": 1.0, "train/loss_scale": 9.0},
        {"step": 2, "train/loss/age": 2.0, "train/loss/gender": None, "val/age/accuracy": 0.5},
    ]
    found = training.series(log, "train/loss")
    assert list(found) == ["age", "gender", "total"]  # tasks first, always in one order
    assert found["total"] == ([1], [3.0])
    assert found["age"] == ([2], [2.0])
    assert found["gender"][0] == [1, 2] and math.isnan(found["gender"][1][1])
    assert training.series(log, "val", suffix="/accuracy") == {"age": ([2], [0.5])}
    assert training.series(log, "val", suffix="/loss") == {}


def test_log_sigma_is_half_of_log_variance(loaded):
    curves = next(b for b in training.section(loaded).blocks if isinstance(b, Figures))
    by_name = {figure.name: figure.figure.axes[0] for figure in curves.items}
    sigma = by_name["curve_log_sigma_lora"].lines[0].get_ydata()
    assert list(sigma) == pytest.approx([-0.1, -0.2, -0.3])  # log_var is -step / 100
    weight = by_name["curve_weights_lora"].lines[0].get_ydata()
    assert list(weight) == [1.25, 1.5, 1.75]  # as the step logged it, whatever the balancer
    accuracy = by_name["curve_val_accuracy_lora"].lines[0].get_ydata()
    assert list(accuracy) == [50.0]


def test_sampling_is_what_the_run_recorded(loaded):
    assert training.sampling(loaded[0], "gender") == {"raw": [30, 70], "drawn": [50, 50]}
    assert training.sampling(loaded[0], "age") == {}


def test_training_classes_beside_the_thesis_composite(loaded):
    found = training.section(loaded, published=report.training_set())
    table = next(b for b in found.blocks if isinstance(b, Table))
    row = next(row for row in table.rows if row[:2] == ("gender", "male"))
    assert row[2:] == ("82,147", "48.79", "49.26", "30", "30.00", "50.00")
    assert {row[0] for row in table.rows} == {"gender"}  # the only task that a run recorded


def test_training_classes_without_a_published_set(loaded):
    table = next(b for b in training.section(loaded).blocks if isinstance(b, Table))
    assert table.groups == (("", 2), ("lora", 3))
    assert table.rows[0] == ("gender", "male", "30", "30.00", "50.00")


def test_what_a_run_did_not_record_is_stated(loaded):
    texts = [b.text for b in training.section(loaded).blocks if isinstance(b, Text)]
    assert any("mtlora: no metrics.jsonl" in text for text in texts)
    table = cost.cost(loaded).blocks[0]
    assert any("lora: latency at batch 1, ms" in note for note in table.notes)


def test_cost_of_the_complete_run(loaded):
    found = cost.measured(loaded[0])
    assert found["trainable share, %"] == "2.00"
    assert found["best inference, images/s"] == "410 (batch 32)"
    assert found["training, images/s"] == "250 (batch 64)"
    assert found["peak memory, GiB"] == "–"
    assert found["training time, (h:)mm:ss"] == "2:05"
    assert found["device"] == "1 x cpu"


def test_inference_on_another_device_is_stated(loaded):
    info = loaded[0].info | {"inference": {"latency_ms": 1.5, "device": "8 x TPU v5e"}}
    found = cost.measured(dataclasses.replace(loaded[0], info=info))
    assert found["latency at batch 1, ms"] == "1.5"
    assert found["device"] == "1 x cpu; inference: 8 x TPU v5e"


def test_encoder_gflops_follow_variant_and_size(loaded):
    own = cost.encoder_gflops(loaded[0])
    config = {"model": {"variant": "PE-Core-T16-384", "image_size": 192}}
    quarter = cost.encoder_gflops(dataclasses.replace(loaded[0], config=config))
    # A quarter of the patches: below a quarter of the operations, as attention shrinks faster.
    assert own / 5.5 < quarter < own / 4
    unknown = {"model": {"variant": "no such encoder"}}
    assert cost.encoder_gflops(dataclasses.replace(loaded[0], config=unknown)) is None
    assert cost.encoder_gflops(loaded[2]) is None


def test_provenance_flattens_the_config(loaded):
    table = next(b for b in cost.provenance(loaded).blocks if isinstance(b, Table))
    facts = dict(table.rows)
    assert facts["config method.rank"] == "4"
    assert facts["version of jax"] == "0.10.2"
    assert facts["command"].startswith("python scripts/train.py")
