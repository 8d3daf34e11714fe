import numpy as np

from softbio_jax.data import sampling
from softbio_jax.data.sampling import Weighted
from softbio_jax.tasks import MISSING, TASKS
from softbio_jax.thesis import composite, protocol

# The totals of the thesis' tables, which the parts of its four sets must sum to.
TOTALS = {
    "age": [2935, 15699, 16032, 29784, 24462, 17976, 14413, 10618, 4828],
    "gender": [82147, 86215],
    "emotion": [912, 218, 544, 3701, 1301, 556, 1983],
}


def test_parts_sum_to_the_tables():
    for task, counts in composite.class_counts().items():
        assert counts.tolist() == TOTALS[task]


def test_label_tables_have_the_margins_of_every_set():
    labels = composite.labels()
    start = 0
    for part in composite.PARTS.values():
        size = sum(part["gender"])
        for task, values in labels.items():
            rows = values[start : start + size]
            if task in part:
                assert np.bincount(rows).tolist() == list(part[task])
            else:
                assert (rows == MISSING).all()
        start += size
    assert start == 168_362
    assert (labels["age"] != MISSING).sum() == 136_747


def test_expected_draws_are_the_thesis_within_sampling_error():
    rows = composite.side_by_side(composite.labels())
    assert len(rows) == 18
    assert all(row.rows == row.thesis_rows for row in rows)
    assert max(abs(row.z) for row in rows) < 3


def test_a_drawn_epoch_is_the_thesis_within_sampling_error():
    labels = composite.labels()
    counts = protocol.repetitions(labels, seed=2)
    probabilities = protocol.mean_rule(labels, counts)
    drawn = Weighted(probabilities, epoch_size=int(counts.sum()), seed=2).epoch(0)
    assert len(drawn) == 238_959
    for task, printed in composite.DRAWN.items():
        values = labels[task][drawn]
        values = values[values != MISSING]
        share = np.bincount(values, minlength=TASKS[task].num_classes) / len(values)
        # Both columns are histograms of one random epoch.
        error = np.sqrt(2 * share * (1 - share) / len(values))
        z = (np.array(printed) / 100 - share) / error
        assert np.abs(z).max() < 3, (task, z)


def test_natural_draws_differ_from_the_thesis():
    labels = composite.labels()
    share = sampling.drawn_shares(labels["age"], np.full(168_362, 1 / 168_362), 9)
    error = np.sqrt(share * (1 - share) / 137_000)
    z = (np.array(composite.DRAWN["age"]) / 100 - share) / error
    assert np.abs(z).max() > 30


def test_report_as_text_and_chart(tmp_path):
    rows = composite.side_by_side({"gender": composite.labels()["gender"]})
    text = composite.as_text(rows)
    assert "male         82,147    82,147       +0" in text
    assert "emotion" not in text
    composite.write_chart(rows, tmp_path / "composite.png")
    assert (tmp_path / "composite.png").read_bytes()[:4] == b"\x89PNG"
