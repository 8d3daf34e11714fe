"""Kaggle's TPU image: another Flax, NumPy and python. Its GPU images are built from Colab's."""

import pytest

from tests.platforms import checks

pytestmark = pytest.mark.platform
EXECUTED = ["finetune"]


@pytest.fixture(scope="module")
def platform():
    return checks.made("kaggle-2026-08-tpu")


@pytest.mark.parametrize("notebook", [name for name in checks.NOTEBOOKS if name not in EXECUTED])
def test_installing_changes_no_version(platform, checkout, notebook):
    checks.installing_changes_no_version(platform, checkout, notebook)


@pytest.mark.parametrize("notebook", EXECUTED)
def test_notebook_runs_as_shipped(platform, checkout, notebook, tmp_path):
    checks.notebook_runs_as_shipped(platform, checkout, notebook, tmp_path)
