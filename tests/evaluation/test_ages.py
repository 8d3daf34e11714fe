"""Errors in years, minors called adults, conformal sets and votes against counts by hand."""

import types

import numpy as np
import pytest
from scipy import stats

from softbio_jax.evaluation import label_section
from softbio_jax.evaluation.metrics import ages, conformal, vote_metrics
from softbio_jax.evaluation.metrics.classification import REPRESENTATIVE_YEARS
from softbio_jax.evaluation.predictions import Predictions

RNG = np.random.default_rng(0)


def predicted(labels, **audit):
    """Certain predictions of classes 0, 1, 2, ... of age."""
    n = len(labels)
    probabilities = np.eye(9, dtype=np.float32)[np.arange(n) % 9]
    columns = {name: np.array(values) for name, values in audit.items()}
    ids = np.array([f"{i}" for i in range(n)])
    return Predictions(
        name="x",
        ids=ids,
        labels={"age": np.array(labels)},
        probabilities={"age": probabilities},
        audit=columns,
    )


def test_errors_are_those_in_years():
    item = predicted([0, 2, 2, 3], years=["1", "16", "", "20.5"])
    error = np.abs(np.array([1 - 1, 6 - 16, 24.5 - 20.5]))
    found = ages.errors(item)
    assert found["n"] == 3
    assert found["mae"] == pytest.approx(error.mean())
    low, high = stats.t.interval(0.95, 2, loc=error.mean(), scale=stats.sem(error))
    assert found["interval"] == pytest.approx([low, high])
    shares = {t: score["share"] for t, score in found["cumulative_score"].items()}
    assert shares == pytest.approx({3: 1 / 3, 5: 2 / 3, 10: 1})
    assert ages.errors(predicted([0, 1])) is None


def test_an_age_of_one_year_in_any_column_is_a_true_age():
    item = predicted([0, 2, -1, 3], age_range=["1", "10-19", "[16, 17)", ""], years=["", "", "n/a", "20.5"])
    error = np.abs(np.array([1 - 1, 14.5 - 16, 24.5 - 20.5]))
    found = ages.errors(item)
    assert (found["n"], found["mae"]) == (3, pytest.approx(error.mean()))


@pytest.mark.parametrize("column", ["years", "age_group"])
def test_a_column_that_contradicts_the_labels_holds_something_else(column):
    # Numbers of classes, or years of experience: 3 is no age of the class 20-29.
    item = predicted([3, 4, 5], **{column: ["3", "4", "5"]})
    assert ages.errors(item) is None
    assert ages.minors_called_adults(item) == []


def test_a_head_of_years_is_measured_by_its_own_expectation():
    item = predicted([0, 1], years=["2", "8"], expected_years=["3.5", "8.25"])
    assert ages.errors(item)["mae"] == pytest.approx((1.5 + 0.25) / 2)


def test_ranges_are_met_where_the_expected_age_rounds_into_them():
    # Expected ages are 1, 6, 14.5, 24.5, 34.5 and 44.5, which round to 15, 25, 35 and 45.
    item = predicted(
        [-1, -1, -1, -1, 5, -1],
        years=["", "", "", "", "", "44"],
        age_group=["0-3", "4-19", "4-14", "26-39", "40-69", "40-69"],
    )
    found = ages.against_ranges(item)
    assert (found["n"], found["inside"], found["outside"]) == (4, 0.5, 0.5)  # outside by 1 year twice
    assert found["interval"] == pytest.approx(stats.binomtest(2, 4).proportion_ci(method="wilson"))
    assert ages.against_ranges(predicted([0, -1])) is None


def test_minors_are_those_whose_label_is_below():
    # Expected ages are 1, 6, 14.5, 24.5, 34.5 and 44.5.
    item = predicted(
        [-1, 1, 2, -1, 2, -1],
        years=["", "", "17", "12", "", ""],
        age_group=["0-3", "", "", "", "", "4-19"],
        race=["a", "a", "a", "b", "b", "b"],
    )
    rows = {
        (row["threshold"], row["group"]): (row["wrong"], row["n"]) for row in ages.minors_called_adults(item)
    }
    # Below 13: 0-3, class 3-9, 12 years (predicted 24.5); below 18 also 17 years (predicted 14.5). The class
    # 10-19 and the range 4-19 may be either.
    assert rows == {
        (13, "all"): (1, 3),
        (13, "a"): (0, 2),
        (13, "b"): (1, 1),
        (18, "all"): (1, 4),
        (18, "a"): (0, 3),
        (18, "b"): (1, 1),
    }
    for row in ages.minors_called_adults(item):
        wanted = stats.binomtest(row["wrong"], row["n"]).proportion_ci(method="wilson")
        assert row["interval"] == pytest.approx([wanted.low, wanted.high])


def test_a_column_that_is_no_age_does_not_stop_a_report():
    item = predicted([0, 1], age_group=["young", "old"])
    assert ages.label_years(item).tolist() == [[0, 3], [3, 10]]
    assert ages.predicted_years(item) == pytest.approx(REPRESENTATIVE_YEARS[:2])


def random_set(n, seed, name="x"):
    rng = np.random.default_rng(seed)
    logits = 2 * rng.standard_normal((n, 9))
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = np.array([rng.choice(9, p=row) for row in p])
    race = np.array(["a", "b"])[rng.integers(0, 2, n)]
    ids = np.array([f"{i}" for i in range(n)])
    return Predictions(
        name=name, ids=ids, labels={"age": labels}, probabilities={"age": p}, audit={"race": race}
    )


@pytest.mark.parametrize("error", [0.05, 0.1, 0.3])
def test_sets_cover_as_often_as_they_promise(error):
    """Over many splits the mean coverage is in [1 - e, 1 - e + 1 / (n + 1)], and here close to it."""
    shares = []
    for seed in range(60):
        whole = random_set(500, seed)
        validation, test = whole.take(np.arange(100)), whole.take(np.arange(100, 500))
        rows = conformal.coverage(test, validation, "age", error=error)
        assert rows[0]["group"] == "all" and rows[0]["n"] == 400
        assert sum(row["covered"] for row in rows[1:]) == rows[0]["covered"]
        shares.append(rows[0]["share"])
    half = 3 * np.std(shares) / np.sqrt(len(shares))
    assert 1 - error - half < np.mean(shares) < 1 - error + 1 / 101 + half


def test_the_threshold_is_the_promised_order_statistic():
    p = np.tile(np.linspace(0.05, 0.95, 19)[:, None], (1, 2))
    p[:, 1] = 1 - p[:, 0]
    labels = np.zeros(19, int)  # scores 0.95, 0.90, ..., 0.05
    assert conformal.threshold(labels, p, error=0.1) == pytest.approx(0.9)  # the 18th of 19
    assert conformal.threshold(labels, p, error=0.05) == pytest.approx(0.95)
    assert conformal.threshold(labels, p, error=0.04) == np.inf
    assert conformal.sets(p, np.inf).all()


def test_votes():
    p = np.array([[0.75, 0.25], [0.5, 0.5], [0.2, 0.8]], np.float32)
    cells = np.array(["6 2", "", "0 4"])
    item = Predictions(
        name="x",
        ids=np.array(list("abc")),
        labels={"gender": np.array([0, -1, 1])},
        probabilities={"gender": p},
        audit={"votes_gender": cells},
    )
    cross = [-(0.75 * np.log(0.75) + 0.25 * np.log(0.25)), -np.log(0.8)]
    found = vote_metrics.against_votes(item, "gender")
    assert found == pytest.approx(
        {
            "n": 2,
            "cross_entropy": np.mean(cross),
            "divergence": -np.log(0.8) / 2,  # the first is exact
            "agreement": (0.75 + 1) / 2,
            "ceiling": (0.75 + 1) / 2,
        },
        rel=1e-5,
    )
    assert vote_metrics.against_votes(item, "age") is None


def test_a_column_that_holds_no_votes_ends_no_report():
    item = predicted([0, 1], votes_age=["10%", "yes"], years=["1", "6"])
    run = types.SimpleNamespace(name="run", info={}, validation=None, predictions={"x": item})
    tables = [block.title for block in label_section.section([run]).blocks if hasattr(block, "title")]
    assert "Expected age against true years" in tables
    assert "Against the votes of annotators" not in tables
