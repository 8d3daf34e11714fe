"""The runs that the report's tests have."""

from tests.evaluation.report.conftest import loaded, run_folder  # noqa: F401
