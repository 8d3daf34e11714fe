"""Runs grouped by configuration, their differences by hand, and the page on six of them."""

import dataclasses

import numpy as np
import pytest

from softbio_jax.evaluation import evaluate
from softbio_jax.evaluation.metrics import comparison, intervals
from softbio_jax.evaluation.report import comparing
from softbio_jax.evaluation.report.comparing import configurations
from softbio_jax.evaluation.report.runs import RunResults
from tests.evaluation.fixtures import random_predictions


def run(name, *, seed, skill=2.0, params=1000, **settings):
    faces = random_predictions("faces", n=300, seed=seed, skill=skill)
    return RunResults(
        name=name,
        path=None,
        summary=evaluate.summarise(
            [faces], model={"method": settings.get("method", "lora"), "trainable_params": params}
        ),
        predictions={"faces": faces},
        config={"seed": seed, "method": "lora", **settings},
    )


@pytest.fixture(scope="module")
def six():
    runs = [run(f"probe-s{seed}", seed=seed, skill=1.5, method="lp") for seed in range(2)]
    runs += [run(f"lora-seed{seed}", seed=10 + seed, params=90_000) for seed in range(3)]
    return [*runs, run("full", seed=30, method="ft", params=8_000_000)]


def test_runs_that_differ_only_in_the_seed_are_one_configuration(six):
    found = comparing.compose(six).tables()[0]
    assert [row[0] for row in found.rows] == ["probe", "lora", "full"]
    assert [row[found.header.index("seeds")] for row in found.rows] == ["2", "3", "1"]
    again = configurations.grouped([six[2], six[0], six[4]])
    assert [[member.name for member in item.runs] for item in again] == [
        ["lora-seed0", "lora-seed2"],
        ["probe-s0"],
    ]


def test_other_weights_are_another_configuration_and_another_place_is_not():
    paths = ("", "/a/weights/pe.safetensors", "/home/b/weights/pe.safetensors", "/a/other/pe.safetensors")
    found = configurations.grouped(
        [run(f"run-s{seed}", seed=seed, model={"pretrained": path}) for seed, path in enumerate(paths)]
    )
    assert [[member.name for member in item.runs] for item in found] == [
        ["run-s0"],
        ["run-s1", "run-s2"],
        ["run-s3"],
    ]
    assert configurations.differing(found)["model.pretrained"] == [
        "",
        "weights/pe.safetensors",
        "other/pe.safetensors",
    ]


def test_accuracy_over_seeds_by_hand(six):
    item = configurations.grouped(six)[1]
    found = item.accuracy([("faces", "age")])
    values = [member.summary["datasets"]["faces"]["age"]["accuracy"] for member in item.runs]
    assert found["accuracy"] == pytest.approx(np.mean(values))
    assert found["spread"] == pytest.approx(np.std(values, ddof=1))
    low, high = found["interval"]
    one = configurations.grouped(six)[2]
    metrics = one.first.summary["datasets"]["faces"]["age"]
    assert one.accuracy([("faces", "age")])["interval"] == pytest.approx(metrics["intervals"]["accuracy"])
    # Three seeds are surer than one, by less than if their errors were independent.
    width = np.diff(metrics["intervals"]["accuracy"])[0]
    assert width / 3**0.5 < high - low < width


def test_interval_over_seeds_by_resampling_faces(six):
    item = configurations.grouped(six)[1]
    right = np.mean([intervals.hits(r.predictions["faces"], "age") for r in item.runs], axis=0)
    right = right[~np.isnan(right)]
    low, high = item.accuracy([("faces", "age")])["interval"]
    assert high - low == pytest.approx(2 * 1.96 * right.std() / len(right) ** 0.5, rel=0.05)


def test_differences_of_single_runs_are_mcnemars(six):
    probe, _, full = configurations.grouped([six[0], six[2], six[5]])
    found = configurations.difference(full, probe, "faces", "age")
    expected = comparison.compare(six[5].predictions["faces"], six[0].predictions["faces"], "age")
    assert found["p_value"] == pytest.approx(expected["p_value"])
    assert found["difference"] == pytest.approx(expected["differences"]["accuracy"]["difference"])
    assert found["interval"] == pytest.approx(expected["differences"]["accuracy"]["interval"])


def test_sign_flips_by_enumeration():
    one, two = np.array([1, 0.5, 0.5, 1, 1, 0.0]), np.array([0.5, 0, 0.5, 0, 0.5, 0.0])
    change = (one - two)[one != two]
    signs = np.array(np.meshgrid(*[[-1, 1]] * len(change))).reshape(len(change), -1)
    exact = np.mean(np.abs(signs.T @ change) >= change.sum() - 1e-9)
    found = comparison.changed_mean(one, two)
    assert found["p_value"] == pytest.approx(exact, abs=0.015)
    assert found["effect"] == pytest.approx((one - two).mean() / (one - two).std())


def test_examples_in_another_order_do_not_matter(six):
    probe, lora = six[0], six[2]
    order = np.random.default_rng(0).permutation(300)
    turned = dataclasses.replace(lora, predictions={"faces": lora.predictions["faces"].take(order)})
    results = [
        configurations.difference(*configurations.grouped([probe, other]), "faces", "gender")
        for other in (lora, turned)
    ]
    assert results[0] == results[1]


def test_the_page_has_differences_cost_and_settings(six):
    content = comparing.compose(six)
    titles = [section.title for section in content.sections]
    assert titles == ["Configurations", "Paired differences", "Test sets", "Settings and seeds"]
    overview, tests, per_set, changed, seeds = content.tables()
    assert overview.rows[1][overview.header.index("trainable parameters")] == "90,000"
    assert {row[0] for row in tests.rows} == {"lora", "full"} and len(tests.rows) == 4
    assert len(per_set.rows) == 2 and per_set.header[-3:] == ("probe", "lora", "full")
    assert [row[0] for row in changed.rows] == ["method"]
    assert len(seeds.rows) == 6
    assert [figure.name for figure in content.figures()] == ["comparison_cost"]


def test_runs_without_a_common_test_set_are_not_compared(six):
    other = random_predictions("elsewhere", n=50)
    stranger = dataclasses.replace(
        six[5],
        name="stranger",
        config={"method": "other"},
        predictions={"elsewhere": other},
        summary=evaluate.summarise([other], model={}),
    )
    content = comparing.compose([six[0], stranger])
    assert "share no test set" in content.sections[0].blocks[0].text
    assert content.figures() == []


def test_corruption_errors_stand_beside_accuracies_where_they_were_measured(six):
    def measured(item, error):
        found = {"n": 300, "mean_corruption_error": error, "interval": [error - 0.05, error + 0.05]}
        return dataclasses.replace(item, robustness={"faces": {"age": found}})

    title = "Mean corruption error per test set and task, %"
    assert title not in [table.title for table in comparing.compose(six).tables()]
    runs = [measured(six[0], 0.5), *six[1:2], measured(six[2], 0.2), measured(six[3], 0.4), *six[4:]]
    (table,) = (table for table in comparing.compose(runs).tables() if table.title == title)
    assert table.rows == (("faces", "age", "300", "50.00 [45.0, 55.0]", "30.00 ± 14.14", "–"),)
