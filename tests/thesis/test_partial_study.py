"""configs/partial_labels.py: three arms that differ in labels alone, and the share that is recovered."""

import math
import pathlib
import runpy

import numpy as np
import pytest
from scipy import optimize, stats

from softbio_jax.data import index as index_lib
from softbio_jax.data import sources
from softbio_jax.runs.data import with_partial_labels
from softbio_jax.tasks import AGE, AGE_SPANS
from softbio_jax.thesis.study import coarsening, recovered, tables
from softbio_jax.thesis.study.collected import Collected
from softbio_jax.thesis.study.study import Trial, study_from
from tests.structure import ROOT

GET_CONFIG = runpy.run_path(str(ROOT / "configs" / "partial_labels.py"))["get_config"]
STUDY = study_from(GET_CONFIG().to_dict() | {"pretrained": "weights.safetensors"})
LABELS = np.random.default_rng(0).integers(0, 9, 4000)


def config_of(cell):
    return STUDY.config(Trial(cell=cell, factor=1.0, seed=1), encoder="", workdir=pathlib.Path())


def test_arms_differ_in_labels_alone():
    for method in ("lp", "lora"):
        for ranges in coarsening.RANGES:
            full, masked, partial = (
                config_of(f"{method}_{arm}") for arm in ("full", f"{ranges}_masked", f"{ranges}_partial")
            )
            assert masked.data.train == partial.data.train == (f"fairface_{ranges}/train",)
            assert (masked.data.labels.partial, partial.data.labels.partial) == ((), ("age",))
            for other in (masked, partial):
                assert (other.train, other.optimizer, other.model) == (full.train, full.optimizer, full.model)
                assert other.data.test == full.data.test == ("fairface/val",)
    assert STUDY.size() == 2 * 5 * 5


@pytest.mark.parametrize("ranges", coarsening.RANGES)
def test_a_class_is_coarsened_to_a_range_that_touches_it(ranges):
    words = coarsening.ranges_of(LABELS, coarsening.RANGES[ranges], seed=1)
    assert set(words) == set(coarsening.RANGES[ranges])
    for label, word in zip(LABELS, words, strict=True):
        first, *last = map(int, word.rstrip("+").split("-"))
        start, end = AGE_SPANS[label]
        assert first < end and start <= (last[0] if last else 120)


def test_years_are_uniform_within_a_class():
    words = coarsening.ranges_of(np.full(7000, 1), coarsening.RANGES["rafdb"], seed=0)
    # 3-9 has seven years, of which one is in 0-3.
    assert stats.binomtest(int((words == "0-3").sum()), 7000, 1 / 7).pvalue > 1e-3
    words = coarsening.ranges_of(np.full(5000, 1), coarsening.RANGES["adience"], seed=0)
    # 4, 5, 6, 8 and 9: 3 and 7 are in gaps.
    assert stats.binomtest(int((words == "4-6").sum()), 5000, 3 / 5).pvalue > 1e-3


def test_a_coarsened_set_is_read_as_one(data_root, tmp_path):
    source = data_root / "synthetic_fairface"
    arguments = {"seed": 3, "val_fraction": 0.25, "split_seed": 7}
    found = coarsening.write(source, tmp_path / "coarse", ranges="rafdb", **arguments)
    before = sources.open_prepared(source, "train")
    after = sources.open_prepared(tmp_path / "coarse", "train")
    assert found["rows"] == len(before) == len(after) and found["coarsened"] == 15
    rows = np.flatnonzero(after.columns["age_range"] != "")
    train, val = sources.train_val(len(before), seed=7, val_fraction=0.25)
    assert len(rows) == 15 and np.isin(rows, train).all() and not np.isin(rows, val).any()
    kept = np.setdiff1d(np.arange(len(before)), rows)
    np.testing.assert_array_equal(after.labels["age"][kept], before.labels["age"][kept])
    np.testing.assert_array_equal(after.labels["gender"], before.labels["gender"])
    assert all(after[i] == before[i] for i in (0, 7, len(before) - 1))
    labels = config_of("lp_rafdb_partial").data.labels
    (with_sets,) = with_partial_labels([after], labels)
    for row, truth in enumerate(before.labels["age"]):
        assert with_sets.targets["age"].classes_of(row)[truth] == 1  # never excluded
    assert with_sets.targets["age"].counts()["partial"] == found["masked"] > 0
    assert index_lib.read(tmp_path / "coarse", "train").fingerprint() == after.fingerprint


def test_fiellers_interval_is_where_students_test_does_not_reject():
    rng = np.random.default_rng(0)
    whole = rng.normal(3, 0.5, 5)
    part = 0.6 * whole + rng.normal(0, 0.3, 5)
    found = recovered.share(part.tolist(), whole.tolist())
    assert found.value == pytest.approx(part.mean() / whole.mean())

    def excess(ratio):
        return stats.ttest_1samp(part - ratio * whole, 0).pvalue - 0.05

    assert found.low == pytest.approx(optimize.brentq(excess, found.value - 3, found.value), rel=1e-6)
    assert found.high == pytest.approx(optimize.brentq(excess, found.value, found.value + 3), rel=1e-6)


def test_a_gap_that_may_be_zero_has_no_share():
    found = recovered.share([0.1, 0.2, 0.1], [1.0, -1.0, 0.1])
    assert math.isinf(found.low) and math.isinf(found.high)
    assert math.isinf(recovered.share([0.5], [1.0]).high)


def test_the_coverage_of_the_interval():
    """Pairs with a true ratio of 0.5: the interval has it in 95 % of draws."""
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(600):
        whole = rng.normal(2, 0.6, 5)
        found = recovered.share((0.5 * whole + rng.normal(0, 0.4, 5)).tolist(), whole.tolist())
        hits += found.low <= 0.5 <= found.high
    assert stats.binomtest(hits, 600, 0.95).pvalue > 1e-3


def run(cell, seed, accuracy, mae):
    return {
        "cell": cell,
        "seed": seed,
        "chosen": True,
        "averages": {AGE.name: accuracy},
        "datasets": {"fairface": {AGE.name: {"expected_age_mae": mae}}},
    }


def test_the_table_has_every_complete_comparison():
    runs = []
    for seed in range(5):
        noise = 0.001 * ((seed * 7) % 5)
        runs.append(run("lp_full", seed, 0.44 + noise, 6.0))
        runs.append(run("lp_rafdb_masked", seed, 0.40 + noise, 7.0))
        runs.append(run("lp_rafdb_partial", seed, 0.43 + noise, 6.2))
    study = Collected(values={"runs": runs, "cells": dict.fromkeys(STUDY.cells)})
    accuracy, years = recovered.rows(study)
    assert accuracy[:7] == ["LP", "RAF-DB's", "accuracy, %", "40.20", "43.20", "44.20", "**+4.00 ± 0.00**"]
    assert accuracy[7] == "75 [75, 75]"
    assert years[6:] == ["**-1.00 ± 0.00**", "80 [80, 80]"]
    assert len(tables.markdown(recovered.HEADER, recovered.rows(study)).splitlines()) == 4
