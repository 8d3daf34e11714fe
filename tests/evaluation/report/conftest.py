"""One report on three models, written once for all tests that look at it."""

import pathlib

import pytest

from softbio_jax.evaluation import predictions_csv
from softbio_jax.evaluation.report import runs, write
from tests.evaluation.fixtures import random_predictions
from tests.evaluation.report.fixtures import write_run


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory) -> pathlib.Path:
    """A folder with the runs `lora` (complete), `lora_age` (one task) and `mtlora` (bare)."""
    folder = tmp_path_factory.mktemp("runs")
    write_run(folder / "lora")
    write_run(folder / "lora_age", tasks=("age",), seed=1, bare=True)
    write_run(folder / "mtlora", method="mtlora", seed=2, bare=True)
    predictions_csv.save(random_predictions("fairface", n=40, seed=3), folder / "other.csv")
    return folder


@pytest.fixture(scope="session")
def loaded(run_folder) -> list[runs.Run]:
    """The three runs and a third party's predictions."""
    own = runs.load_all([run_folder / name for name in ("lora", "lora_age", "mtlora")])
    return own + runs.third_parties([f"Other & Co:{run_folder / 'other.csv'}"], own)


@pytest.fixture(scope="session")
def report(loaded, tmp_path_factory) -> pathlib.Path:
    """The folder of the report on the complete run and the third party."""
    out = tmp_path_factory.mktemp("report")
    write.write([loaded[0], loaded[3]], out)
    return out
