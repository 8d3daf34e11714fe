"""Groups, their sizes, gaps and flags, by hand."""

import dataclasses

import numpy as np
import pytest

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


def test_gap_leaves_small_cells_out_but_names_the_smallest(faces):
    rows = fairness.by_group(faces, "gender", ("race", "gender"))
    gap = fairness.gap(rows, ("race", "gender"))
    # Black female (30 of 50) is too small to be called the worst.
    assert (gap["best"], gap["worst"]) == ("White male", "White female")
    assert gap["gap"] == pytest.approx(0.98 - 0.75)
    assert gap["interval"] == list(intervals.wilson_difference((98, 90), (100, 120)))
    assert gap["p_value"] < 1e-4
    assert gap["smallest"] == {"group": "Black female", "n": 50}


def test_no_gap_where_all_groups_are_alike():
    same = grouped({"A": (100, 90, 0, 0), "B": (200, 180, 0, 0)})
    gap = fairness.gap(fairness.by_group(same, "gender", ("race",)), ("race",))
    assert gap["gap"] == 0
    assert gap["p_value"] == pytest.approx(1.0)
    assert gap["interval"][0] < 0 < gap["interval"][1]


def test_gap_needs_two_groups_that_are_large_enough():
    few = grouped({"A": (100, 90, 0, 0), "B": (20, 1, 0, 0)})
    assert fairness.gap(fairness.by_group(few, "gender", ("race",)), ("race",)) is None


def test_a_perfect_model_has_a_p_value():
    perfect = grouped({"A": (100, 100, 0, 0), "B": (100, 100, 0, 0)})
    gap = fairness.gap(fairness.by_group(perfect, "gender", ("race",)), ("race",))
    assert gap["p_value"] == 1.0
    assert (gap["best"], gap["worst"]) == ("A", "B")


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
