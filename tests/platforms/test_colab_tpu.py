"""Colab's TPU image, which has the oldest JAX: every notebook, and the tests of what calls JAX."""

import pytest

from tests.platforms import checks

pytestmark = pytest.mark.platform
EXECUTED = checks.NOTEBOOKS


@pytest.fixture(scope="module")
def platform():
    return checks.made("colab-2026-08-tpu")


@pytest.mark.parametrize("notebook", EXECUTED)
def test_notebook_runs_as_shipped(platform, checkout, notebook, tmp_path):
    checks.notebook_runs_as_shipped(platform, checkout, notebook, tmp_path)


def test_quick_tests_pass(platform, checkout):
    checks.quick_tests_pass(platform, checkout, checks.ON_JAX)
