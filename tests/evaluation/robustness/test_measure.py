"""The mean corruption error by hand, and a tiny run from its directory to the page."""

import dataclasses
import json

import numpy as np
import pytest

from softbio_jax.errors import UserError
from softbio_jax.evaluation.robustness import corruptions, measure, page
from softbio_jax.runs.session import Session
from tests.runs.tiny import config_on, run_of

KINDS = len(corruptions.CORRUPTIONS)


def answers(rate, n=200, seed=0):
    """Right answers at `rate` (K,) for every condition."""
    return np.random.default_rng(seed).random((1 + 5 * KINDS, n)) < np.reshape(rate, (-1, 1))


def test_mean_corruption_error_by_hand():
    right = answers(np.linspace(0.9, 0.4, 1 + 5 * KINDS))
    found = measure.summarise({"faces": {"gender": right}}, model={})["datasets"]["faces"]["gender"]
    errors = 1 - right.mean(axis=1)
    assert found["clean"]["accuracy"] == pytest.approx(right[0].mean())
    for number, kind in enumerate(corruptions.CORRUPTIONS):
        rows = [row["accuracy"] for row in found["corruptions"][kind]]
        assert rows == pytest.approx((1 - errors[1 + 5 * number : 6 + 5 * number]).tolist())
    by_kind = errors[1:].reshape(KINDS, 5).mean(axis=1)
    assert found["mean_corruption_error"] == pytest.approx(by_kind.mean())
    assert found["added_error"] == pytest.approx(by_kind.mean() - errors[0])
    low, high = found["interval"]
    assert low < found["mean_corruption_error"] < high


def test_relative_errors_are_normalised_by_corruption_first():
    rate = np.concatenate([[0.9], np.repeat(np.linspace(0.95, 0.3, KINDS), 5)])
    first, other = answers(rate), answers(rate - 0.1, seed=1)
    reference = measure.summarise({"faces": {"gender": other}}, model={}) | {"name": "other"}
    found = measure.summarise({"faces": {"gender": first}}, model={}, reference=reference)
    one, two = (1 - values[1:].reshape(KINDS, 5, -1).mean((1, 2)) for values in (first, other))
    assert found["datasets"]["faces"]["gender"]["relative_to"] == pytest.approx((one / two).mean())
    assert found["reference"] == "other"


@pytest.fixture(scope="module")
def measured(data_root):
    run, data = run_of(config_on(data_root))
    session = Session(run)
    return session, data, measure.predict(session, data.test[0])


def test_conditions_are_those_of_the_images_themselves(measured):
    """The first condition is the run's own prediction, and a corruption is the prediction of its images."""
    session, data, right = measured
    out = session.predict(data.test[0])
    for task, values in right.items():
        known = out.labels[task] != -1
        expected = out.logits[task][known].argmax(1) == out.labels[task][known]
        np.testing.assert_array_equal(values[0], expected)
        assert values.shape == (1 + 5 * KINDS, known.sum())


def test_the_page_is_written_whole(measured, tmp_path):
    session, data, right = measured
    found = measure.summarise({data.test[0].name: right}, model=session.run.summary())
    measure.write(tmp_path, found, name="tiny")
    folder = tmp_path / "robustness"
    assert json.loads((folder / "robustness.json").read_text()) == found
    assert measure.read(tmp_path)["datasets"] == found["datasets"]
    text = (folder / "robustness.html").read_text(encoding="utf-8")
    assert "mean corruption error" in text and "relative to" not in text
    assert len(list((folder / "figures").iterdir())) == 1 + len(right)
    content = page.compose(found, name="tiny")
    assert [section.title for section in content.sections] == ["Mean corruption error", data.test[0].name]


def test_a_baseline_must_have_been_measured_on_the_same_test_sets(measured, tmp_path):
    session, data, right = measured
    with pytest.raises(UserError, match=r"run without robustness.*--robustness"):
        measure.read(tmp_path)
    reference = measure.summarise({"elsewhere": right}, model={}) | {"name": "other"}
    with pytest.raises(UserError, match=rf"baseline.*expected {data.test[0].name}: .*found none"):
        measure.check_reference(reference, data.test[0], session.run.config.tasks)
    same = dataclasses.replace(data.test[0], name="elsewhere")
    measure.check_reference(reference, same, list(right))
