"""The section on unsure answers: thresholds of the validation rows, counted on the test sets."""

import numpy as np
import pytest

from softbio_jax.evaluation import predictions_csv
from softbio_jax.evaluation.metrics import selective
from softbio_jax.evaluation.metrics.calibration import with_temperature
from softbio_jax.evaluation.predictions import Predictions
from softbio_jax.evaluation.report import runs, trust
from softbio_jax.evaluation.report.document import NOTHING, Figures, Table
from tests.evaluation.report.fixtures import write_run


def calibrated(name, n, seed):
    """Answers on gender that are right as often as they say."""
    rng = np.random.default_rng(seed)
    p = rng.uniform(0.5, 1, n)
    return Predictions(
        name=name,
        ids=[f"{name}{i}" for i in range(n)],
        labels={"gender": (rng.uniform(size=n) > p).astype(np.int32)},
        probabilities={"gender": np.stack([p, 1 - p], axis=1)},
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = write_run(tmp_path_factory.mktemp("runs") / "x", tasks=("gender",))
    predictions_csv.save(calibrated("validation", 4000, 0), folder / "eval" / "validation.csv")
    predictions_csv.save(calibrated("fairface", 500, 1), folder / "eval" / "predictions" / "fairface.csv")
    return runs.load(folder, name="x")


def test_what_a_threshold_gives_is_counted_on_the_test_set(run):
    table, figures = trust.unsure([run]).blocks
    assert isinstance(table, Table) and isinstance(figures, Figures)
    row = next(row for row in table.rows if row[0] == "fairface")
    temperature = run.summary["temperatures"]["gender"]
    labels, p = run.predictions["fairface"].labelled("gender")
    p = with_temperature(p, temperature)
    wrong = p.argmax(axis=1) != labels
    assert row[2] == f"{100 * wrong.mean():.2f}"
    validation = predictions_csv.load(run.path / "eval" / "validation.csv").labelled("gender")
    validation = validation[0], with_temperature(validation[1], temperature)
    for place, risk in enumerate((0.05, 0.1, 0.2)):
        least = selective.threshold(*validation, risk=risk)
        answered, errors = row[4 + 2 * place : 6 + 2 * place]
        if least is None:
            assert (answered, errors) == (NOTHING, NOTHING)
            continue
        chosen = p.max(axis=1) >= least
        assert answered == f"{100 * chosen.mean():.2f}" and errors == f"{100 * wrong[chosen].mean():.2f}"
    assert row[6] != NOTHING  # of a tenth there is a threshold
    (figure,) = figures.items
    line = figure.figure.axes[0].lines[0]
    assert line.get_xdata()[-1] == 100 and line.get_ydata()[-1] == pytest.approx(100 * wrong.mean())


def test_without_validation_rows_there_are_curves_alone(tmp_path):
    bare = runs.load(write_run(tmp_path / "y", tasks=("age",), bare=True), name="y")
    table, figures = trust.unsure([bare]).blocks
    assert all(cell == NOTHING for row in table.rows for cell in row[4:])
    assert len(figures.items[0].figure.axes[0].lines) == 2  # fairface and vggface2
