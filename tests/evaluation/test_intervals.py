"""Intervals against published values, and against drawing examples one by one."""

import dataclasses

import numpy as np
import pytest

from softbio_jax.evaluation import evaluate
from softbio_jax.evaluation.metrics import classification, intervals
from tests.evaluation import interval_simulation as simulation
from tests.evaluation.fixtures import hand_made, random_predictions


def test_wilson_published_values():
    # Newcombe, Statistics in Medicine 1998 (two-sided intervals for one proportion), Table I.
    for hits, n, low, high in [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605)]:
        assert intervals.wilson(hits, n) == pytest.approx((low, high), abs=5e-5)
    low, high = intervals.wilson(0, 20)
    assert low == 0 and high == pytest.approx(0.1611, abs=5e-5)


def test_wilson_by_its_formula():
    z, p, n = 1.959963984540054, 0.9, 50
    centre, spread = (p + z * z / (2 * n)), z * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5
    expected = [(centre + sign * spread) / (1 + z * z / n) for sign in (-1, 1)]
    assert intervals.wilson(45, 50) == pytest.approx(expected)


def test_one_class_has_wilsons_interval():
    counts = np.array([[45, 3, 2], [0, 0, 0], [0, 0, 0]])
    assert intervals.of_class_averages(counts)["balanced_accuracy"] == pytest.approx(
        intervals.wilson(45, 50), abs=1e-9
    )


@pytest.mark.parametrize(("hits", "n"), [((40, 30), (50, 60)), ((18, 55), (20, 70)), ((7, 7), (7, 9))])
def test_mean_recall_bounds_solve_the_score_equation(hits, n):
    """Brute force over all pairs of recalls: the least unlikely ones with each average."""
    counts = np.array([[hits[0], n[0] - hits[0]], [n[1] - hits[1], hits[1]]])
    grid = np.linspace(0, 1, 1201)[1:-1]
    one, two = grid[:, None], grid[None, :]
    likelihood = sum(
        h * np.log(p) + (m - h) * np.log1p(-p) for h, m, p in zip(hits, n, (one, two), strict=True)
    )
    mean, estimate = (one + two) / 2, (hits[0] / n[0] + hits[1] / n[1]) / 2
    variance = (one * (1 - one) / n[0] + two * (1 - two) / n[1]) / 4
    inside = []
    for total in range(2 * len(grid) - 1):  # the pairs with one average
        first = np.arange(max(0, total - len(grid) + 1), min(total, len(grid) - 1) + 1)
        pair = first, total - first
        best = likelihood[pair].argmax()
        if abs(estimate - mean[pair][best]) <= 1.959964 * variance[pair][best] ** 0.5:
            inside.append(mean[pair][best])
    found = intervals.of_class_averages(counts)["balanced_accuracy"]
    assert found == pytest.approx((min(inside), max(inside)), abs=2e-3)


@pytest.mark.parametrize("metric", [intervals.mean_recall, intervals.mean_f1])
def test_gradients_by_finite_differences(metric):
    rng = np.random.default_rng(0)
    shares, n, weights = (
        rng.dirichlet(np.ones(4), 4),
        np.array([5, 20, 0, 7]),
        rng.dirichlet(np.ones(4))[None],
    )
    _, gradient = metric(shares, n, weights)
    for place in np.ndindex(4, 4):
        step = np.zeros((4, 4))
        step[place] = 1e-6
        change = metric(shares + step, n, weights)[0] - metric(shares - step, n, weights)[0]
        assert gradient[0][place] == pytest.approx(change[0] / 2e-6, abs=1e-6)


def test_class_metrics_are_those_of_the_counts():
    counts = np.array([[8, 2, 0], [3, 7, 1], [0, 0, 0]])
    n, shares = counts.sum(1), counts / np.maximum(counts.sum(1), 1)[:, None]
    for metric, classes, expected in (
        (intervals.mean_recall, 2, classification.balanced_accuracy(counts)),
        (intervals.mean_f1, 3, classification.macro_f1(counts)),
    ):
        weights = np.where(np.arange(3) < classes, 1 / classes, 0)[None]
        assert metric(shares, n, weights)[0][0] == pytest.approx(float(expected))


@pytest.mark.parametrize("hit", [0, 1])
def test_a_class_with_one_image_widens_by_what_it_leaves_open(hit):
    """The estimand keeps all classes: the interval holds every possible recall of the fourth one."""
    three = np.zeros((4, 4), np.int64)
    three[:3, :3] = [[50, 30, 20], [20, 45, 35], [30, 25, 45]]
    four = three.copy()
    four[3, 3 if hit else 0] = 1
    low, high = intervals.of_class_averages(three)["balanced_accuracy"]
    wider = intervals.of_class_averages(four)["balanced_accuracy"]
    alone = intervals.wilson(hit, 1)
    estimate = float(classification.balanced_accuracy(four))
    assert wider[0] < estimate < wider[1]
    # No narrower than either source of uncertainty, no wider than both.
    assert max((high - low) * 3, alone[1] - alone[0]) / 4 < wider[1] - wider[0]
    assert wider[1] - wider[0] < ((high - low) * 3 + alone[1] - alone[0]) / 4


def test_without_hits_or_misses_the_interval_is_not_a_point():
    for counts in (np.diag([4, 9]), np.array([[0, 4], [9, 0]])):
        for low, high in intervals.of_class_averages(counts).values():
            assert 0 <= low < high <= 1
        for low, high in intervals.of_class_f1(counts):
            assert low < high


def test_many_tables_at_once_agree_with_one_by_one():
    tables = np.random.default_rng(0).integers(0, 30, (3, 4, 4))
    weights = np.full((3, 4), 0.25)
    found = intervals.score(tables, intervals.mean_f1, weights)
    for table, bounds in zip(tables, found, strict=True):
        assert bounds == pytest.approx(intervals.score(table, intervals.mean_f1, weights[:1])[0])


@pytest.mark.parametrize("recall", simulation.SKILLS.values(), ids=simulation.SKILLS)
@pytest.mark.parametrize("sizes", ["one class of 5", "classes of 3 and 8", "nine age groups, 2 to 200"])
def test_class_averages_cover_the_true_value(sizes, recall):
    """Nominal 95 %; 93 to 97 % and three binomial standard errors of 1,500 test sets."""
    case = simulation.Case(sizes=simulation.SIZES[sizes], recall=recall)
    found = simulation.coverage(case, replicates=1500)
    margin = 3 * (0.95 * 0.05 / 1500) ** 0.5
    for name in ("balanced_accuracy", "macro_f1"):
        assert 0.93 - margin < found[name] < 0.97 + margin, (name, found)


def test_paired_differences_cover_the_true_value():
    case = simulation.Case(sizes=(5, 60, 60), recall=(0.3, 1.0))
    found = simulation.paired_coverage(case, replicates=300)
    assert found > 0.93 - 3 * (0.95 * 0.05 / 300) ** 0.5


@pytest.mark.long
@pytest.mark.parametrize("recall", simulation.SKILLS.values(), ids=simulation.SKILLS)
@pytest.mark.parametrize("sizes", [name for name in simulation.SIZES if name != "one class of 1"])
def test_class_averages_cover_the_true_value_in_every_setting(sizes, recall):
    """20,000 test sets: a standard error of 0.15 points."""
    case = simulation.Case(sizes=simulation.SIZES[sizes], recall=recall)
    found = simulation.coverage(case, replicates=20_000)
    for name in ("balanced_accuracy", "macro_f1"):
        assert 0.93 < found[name] < 0.97, (name, found)


def test_mean_interval_has_the_width_of_theory():
    values = np.random.default_rng(0).normal(3.0, 2.0, size=(900, 2))
    for (low, high), column in zip(intervals.of_means(values), values.T, strict=True):
        assert low < column.mean() < high
        expected = 2 * 1.96 * column.std() / 900**0.5
        assert high - low == pytest.approx(expected, rel=0.1)


def test_ece_interval_of_a_constant_gap():
    labels, probabilities = np.zeros(400, int), np.tile([0.75, 0.25], (400, 1))
    labels[:200] = 1  # half right at confidence 0.75
    low, high = intervals.of_ece(labels, probabilities)
    assert low < 0.25 < high
    assert high - low == pytest.approx(2 * 1.96 * 0.5 / 20, rel=0.1)


def test_average_intervals_by_theory():
    # 900 of 1,600 and 400 of 1,600 right: the mean's variance is that of two shares over four.
    sets = [
        hand_made(name, "gender", [0] * 1600, [[1, 0]] * hits + [[0, 1]] * (1600 - hits))
        for name, hits in (("a", 900), ("b", 400))
    ]
    found = intervals.of_averages(sets, {})
    assert found["gender"] == pytest.approx(found["overall"])
    low, high = found["gender"]
    assert low < (900 + 400) / 3200 < high
    variance = (9 / 16 * 7 / 16 + 1 / 4 * 3 / 4) / 1600 / 4
    assert high - low == pytest.approx(2 * 1.96 * variance**0.5, rel=0.1)


def test_average_intervals_keep_tasks_of_one_face_together():
    # Both tasks are right on the same faces, so their mean varies like one of them.
    faces = random_predictions("faces", tasks=("gender", "age"), n=400, missing=0.0)
    right = faces.probabilities["gender"].argmax(1) == faces.labels["gender"]
    age = np.eye(9)[np.where(right, faces.labels["age"], (faces.labels["age"] + 1) % 9)]
    faces = dataclasses.replace(faces, probabilities={**faces.probabilities, "age": age})
    found = intervals.of_averages([faces], {})
    assert found["overall"] == pytest.approx(found["gender"])
    assert found["gender"] == found["age"] == intervals.wilson(int(right.sum()), 400)


def test_synthetic_labels_have_no_part_in_average_intervals():
    faces = random_predictions("vggface2", n=50)
    found = intervals.of_averages([faces], {"vggface2": ("age",)})
    assert set(found) == {"gender", "overall"}


def test_a_number_has_one_interval_wherever_it_appears():
    faces = random_predictions("faces", tasks=("age",), n=200)
    found = evaluate.summarise([faces], model={})
    accuracy = found["datasets"]["faces"]["age"]["intervals"]["accuracy"]
    assert found["average_intervals"]["age"] == pytest.approx(accuracy)
    assert found["average_intervals"]["overall"] == pytest.approx(accuracy)


def test_correlated_tasks_add_their_covariance():
    """Two tasks of one test set against the variance of the mean over its faces."""
    rng = np.random.default_rng(0)
    faces = random_predictions("faces", tasks=("gender", "emotion"), n=5000, missing=0.0)
    same = rng.random(5000) < 0.5
    right = faces.probabilities["gender"].argmax(1) == faces.labels["gender"]
    own = faces.probabilities["emotion"].argmax(1) == faces.labels["emotion"]
    hit = np.where(same, right, own)
    emotion = np.eye(7)[np.where(hit, faces.labels["emotion"], (faces.labels["emotion"] + 1) % 7)]
    faces = dataclasses.replace(faces, probabilities={**faces.probabilities, "emotion": emotion})
    low, high = intervals.of_averages([faces], {})["overall"]
    spread = ((right.astype(float) + hit) / 2).std() / 5000**0.5
    assert high - low == pytest.approx(2 * 1.959964 * spread, rel=0.01)
