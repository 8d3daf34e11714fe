"""Colab's TPU image, which has the oldest JAX: notebooks, and the tests of what calls JAX."""

import pytest

from tests.platforms import checks

pytestmark = pytest.mark.platform
# The GPU image, with the same JAX, executes the others, in another process.
EXECUTED = [name for name in checks.NOTEBOOKS if name != "zero_shot"]


@pytest.fixture(scope="module")
def platform():
    return checks.made("colab-2026-08-tpu")


@pytest.mark.parametrize("notebook", [name for name in checks.NOTEBOOKS if name not in EXECUTED])
def test_installing_changes_no_version(platform, checkout, notebook):
    checks.installing_changes_no_version(platform, checkout, notebook)


@pytest.mark.parametrize("notebook", EXECUTED)
def test_notebook_runs_as_shipped(platform, checkout, notebook, tmp_path):
    checks.notebook_runs_as_shipped(platform, checkout, notebook, tmp_path)


def test_quick_tests_pass(platform, checkout):
    checks.quick_tests_pass(platform, checkout, checks.ON_JAX)
