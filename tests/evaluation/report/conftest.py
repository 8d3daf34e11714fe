"""One report on three models, written once for all tests that look at it."""

import os
import pathlib
import subprocess
import sys

import pytest

from softbio_jax.evaluation import predictions_csv
from softbio_jax.evaluation.report import runs
from tests.evaluation.fixtures import random_predictions
from tests.evaluation.report.fixtures import write_run

ROOT = pathlib.Path(__file__).resolve().parents[3]


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
def loaded(run_folder) -> list[runs.RunResults]:
    """The three runs and a third party's predictions."""
    own = runs.load_all([run_folder / name for name in ("lora", "lora_age", "mtlora")])
    return own + runs.third_parties([f"Other & Co:{run_folder / 'other.csv'}"], own)


@pytest.fixture(scope="session")
def command(run_folder):
    """Runs scripts/report.py with arguments, in the folder of the runs."""

    def run(*arguments: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, str(ROOT / "scripts" / "report.py"), *arguments],
            cwd=run_folder,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=600,
        )

    return run


@pytest.fixture(scope="session")
def report(command, tmp_path_factory) -> pathlib.Path:
    """The folder of the report on the complete run and the third party, written by the script."""
    out = tmp_path_factory.mktemp("report")
    done = command("lora", "--predictions=Other & Co:other.csv", f"--out={out}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(out / "report.html"))
    return out
