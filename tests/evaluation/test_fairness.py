"""Groups, their sizes, gaps and flags, by hand."""

import dataclasses

import numpy as np
import pytest
from scipy import stats

from softbio_jax.evaluation.metrics import fairness, intervals
from softbio_jax.tasks import MISSING
from tests.evaluation.fixtures import hand_made, random_predictions


def grouped(sizes_and_hits):
    """Gender predictions: race -> (males, hits among them, females, hits among them)."""
    labels, probabilities, races = [], [], []
    for race, (males, male_hits, females, female_hits) in sizes_and_hits.items():
        for label, n, hits in ((0, males, male_hits), (1, females, female_hits)):
            right, wrong = np.eye(2)[label], np.eye(2)[1 - label]
            labels += [label] * n
            probabilities += [right] * hits + [wrong] * (n - hits)
            races += [race] * n
    made = hand_made("faces", "gender", labels, probabilities)
    return dataclasses.replace(made, audit={"race": np.array(races)})


@pytest.fixture
def faces():
    return grouped({"Black": (150, 135, 50, 30), "White": (100, 98, 120, 90), "": (5, 0, 0, 0)})


def test_cells_by_hand(faces):
    rows = fairness.by_group(faces, "gender", ("race",))
    assert [(r["race"], r["n"], r["hits"]) for r in rows] == [("Black", 200, 165), ("White", 220, 188)]
    assert rows[0]["accuracy"] == 165 / 200
    assert rows[0]["balanced_accuracy"] == pytest.approx((135 / 150 + 30 / 50) / 2)
    assert rows[0]["interval"] == list(intervals.wilson(165, 200))
    crossed = fairness.by_group(faces, "gender", ("race", "gender"))
    assert [(r["n"], r["small"]) for r in crossed] == [(150, False), (50, True), (100, False), (120, False)]


def test_gap_counts_every_group_and_names_the_surest_difference(faces):
    rows = fairness.by_group(faces, "gender", ("race", "gender"))
    gap = fairness.gap(rows, ("race", "gender"))
    assert gap["groups"] == 4
    assert gap["smallest"] == {"group": "Black female", "n": 50, "accuracy": 0.6}
    assert gap["largest"] == {"group": "Black male", "n": 150, "accuracy": 0.9}
    assert (gap["lowest"]["group"], gap["highest"]["group"]) == ("Black female", "White male")
    pair = gap["pair"]
    assert (pair["best"]["group"], pair["worst"]["group"]) == ("White male", "Black female")
    assert pair["gap"] == pytest.approx(0.98 - 0.6)
    right_wrong = [[135, 15], [30, 20], [98, 2], [90, 30]]
    assert gap["p_value"] == pytest.approx(stats.chi2_contingency(right_wrong).pvalue)


def test_a_tiny_group_is_not_the_worst_by_chance():
    """One wrong image of one is the lowest accuracy, but no sure difference."""
    some = grouped({"A": (400, 380, 0, 0), "B": (400, 300, 0, 0), "C": (1, 0, 0, 0)})
    gap = fairness.gap(fairness.by_group(some, "gender", ("race",)), ("race",))
    assert gap["lowest"] == {"group": "C", "n": 1, "accuracy": 0}
    assert (gap["pair"]["best"]["group"], gap["pair"]["worst"]["group"]) == ("A", "B")


def test_interval_of_two_groups_is_the_published_one():
    # Newcombe, Statistics in Medicine 1998 (difference of proportions), 56/70 - 48/80, method 10.
    two = grouped({"A": (70, 56, 0, 0), "B": (80, 48, 0, 0)})
    gap = fairness.gap(fairness.by_group(two, "gender", ("race",)), ("race",))
    assert gap["pair"]["interval"] == pytest.approx((0.0524, 0.3339), abs=5e-5)


def test_simultaneous_intervals_hold_together():
    """Six equal groups: a pair is named in at most 5 % of the data sets, and the test rejects as often."""
    rng = np.random.default_rng(0)
    named, rejected = 0, 0
    for _ in range(200):
        hits = rng.binomial(150, 0.8, 6)
        same = [{"race": str(i), "hits": int(h), "n": 150, "accuracy": h / 150} for i, h in enumerate(hits)]
        gap = fairness.gap(same, ("race",))
        named += gap["pair"] is not None
        rejected += gap["p_value"] < 0.05
    assert named <= 20 and 1 <= rejected <= 20  # 200 x 0.05, three standard errors


def test_no_pair_where_all_groups_are_alike():
    same = grouped({"A": (100, 90, 0, 0), "B": (200, 180, 0, 0)})
    gap = fairness.gap(fairness.by_group(same, "gender", ("race",)), ("race",))
    assert gap["p_value"] == pytest.approx(1.0)
    assert gap["effect"] == 0 and gap["pair"] is None


def test_p_value_of_small_groups_is_that_of_all_tables():
    """3 of 3 against 0 of 3: Fisher's exact two-sided p is 2 / C(6, 3)."""
    few = grouped({"A": (3, 3, 0, 0), "B": (3, 0, 0, 0)})
    gap = fairness.gap(fairness.by_group(few, "gender", ("race",)), ("race",))
    assert gap["p_value"] == pytest.approx(0.1, abs=0.01)


def test_effect_by_its_formula():
    two = grouped({"A": (100, 90, 0, 0), "B": (100, 60, 0, 0)})
    gap = fairness.gap(fairness.by_group(two, "gender", ("race",)), ("race",))
    plain = stats.contingency.association([[90, 10], [60, 40]], method="cramer")
    excess = max(0, plain**2 - 1 / 199)
    assert gap["effect"] == pytest.approx((excess / (2 - 1 / 199 - 1)) ** 0.5)


def test_one_group_has_no_gap():
    alone = grouped({"A": (100, 90, 0, 0)})
    assert fairness.gap(fairness.by_group(alone, "gender", ("race",)), ("race",)) is None


def test_a_perfect_model_has_a_p_value():
    perfect = grouped({"A": (100, 100, 0, 0), "B": (100, 100, 0, 0)})
    gap = fairness.gap(fairness.by_group(perfect, "gender", ("race",)), ("race",))
    assert gap["p_value"] == 1.0
    assert gap["pair"] is None


def test_adjusting_takes_all_cuts_of_a_run_as_one_family(faces):
    audits = fairness.adjusted({name: fairness.audit(faces) for name in ("one", "two")})
    gaps = [cut["gap"] for audit in audits.values() for cuts in audit.values() for cut in cuts.values()]
    expected = stats.false_discovery_control([gap["p_value"] for gap in gaps])
    assert [gap["p_adjusted"] for gap in gaps] == pytest.approx(expected.tolist())
    assert len(gaps) == 6


def test_audit_cuts_by_every_subset_of_known_factors_and_counts_each_label_once():
    faces = random_predictions("faces", n=400)
    audit = fairness.audit(faces)
    assert set(audit) == {"age", "gender"}
    assert set(audit["age"]) == {
        "race",
        "gender",
        "age",
        "race x gender",
        "race x age",
        "gender x age",
        "race x gender x age",
    }
    known = {task: faces.labels[task] != MISSING for task in ("age", "gender")}
    assert sum(r["n"] for r in audit["age"]["race"]["rows"]) == known["age"].sum()
    both = (known["age"] & known["gender"]).sum()
    assert sum(r["n"] for r in audit["age"]["race x gender x age"]["rows"]) == both


def test_synthetic_ages_cut_nothing():
    faces = random_predictions("vggface2", n=50, synthetic_labels=("age",))
    assert list(fairness.known_factors(faces)) == ["race", "gender"]


def test_a_set_without_factors_has_no_audit():
    faces = dataclasses.replace(random_predictions("raf_db", tasks=("emotion",)), audit={})
    assert fairness.audit(faces) == {}
